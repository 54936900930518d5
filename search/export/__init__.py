"""What a finished job gives: files that load anywhere, verified, and a report."""

from search.export.result import Control, Result
from search.export.verify import VerificationFailed, verify
from search.export.write import Written, WrittenFile, write_results

__all__ = [
    "Control",
    "Result",
    "VerificationFailed",
    "Written",
    "WrittenFile",
    "verify",
    "write_results",
]
