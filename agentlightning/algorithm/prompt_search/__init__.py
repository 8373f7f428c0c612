"""What the algorithms that search for prompts share: a journal, evaluations, and the model that writes prompts."""

from agentlightning.algorithm.prompt_search.checks import check_number, check_whole
from agentlightning.algorithm.prompt_search.connections import drop_connections
from agentlightning.algorithm.prompt_search.conversations import told_once
from agentlightning.algorithm.prompt_search.cost import Cost
from agentlightning.algorithm.prompt_search.evaluator import PromptEvaluator, Scored
from agentlightning.algorithm.prompt_search.journal import JOURNAL_FILE, Answer, Journal
from agentlightning.algorithm.prompt_search.placeholders import complaint, placeholders, written
from agentlightning.algorithm.prompt_search.progress import SearchProgress
from agentlightning.algorithm.prompt_search.together import together
from agentlightning.algorithm.prompt_search.writer import Reply, Writer

__all__ = [
    "JOURNAL_FILE",
    "Answer",
    "Cost",
    "Journal",
    "PromptEvaluator",
    "Reply",
    "Scored",
    "SearchProgress",
    "Writer",
    "check_number",
    "check_whole",
    "complaint",
    "drop_connections",
    "placeholders",
    "together",
    "told_once",
    "written",
]
