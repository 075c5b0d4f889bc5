"""What a query's result is: its format, its compression and its file, from what was asked and what the steps print.

It knows the last step only by what it prints, and nothing of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from divbase_gateway.domain.after_steps import AfterSteps
from divbase_gateway.domain.errors import InvalidRequest
from divbase_gateway.domain.queries import OutputFormat, QueryRequest

DEFAULT_LEVEL = 3
_PRINTED_BY = {OutputFormat.TSV: "query -f '%CHROM\\t%POS\\t%REF\\t%ALT\\n'", OutputFormat.STATS: "stats"}


@dataclass(frozen=True)
class Output:
    """The result. `level`: of its compression, 0 to 9; of no account to text."""

    format: OutputFormat
    level: int
    name: str

    @property
    def path(self) -> str:
        """Below the job's scratch folder."""
        return f"out/{self.name}"

    @property
    def argv(self) -> tuple[str, ...]:
        """How bcftools is told; text goes to standard output, where the node takes it."""
        if self.format.is_text:
            return ()
        letter = "z" if self.format is OutputFormat.VCF_GZ else "b"
        return (f"-O{letter}{self.level}", "-o", self.path)


def choose_output(request: QueryRequest, after: AfterSteps) -> Output:
    """The result that these steps give, if it is what was asked for.

    Raises:
        InvalidRequest: format or level do not go with the last step of `after`, or are none.
    """
    printed = after.text_format
    if request.level is not None and not 0 <= request.level <= 9:
        raise InvalidRequest(f"{request.level} is no compression level.", hint="Use 0 to 9.")
    step = _PRINTED_BY.get(request.output) if request.output else None
    if printed is None and step is not None:
        raise InvalidRequest(
            f"The format {request.output} is what {step.split()[0]} prints as the last step of --after: there is none.",
            hint=f'Add it: --after "{step}"',
        )
    if printed is not None and request.output not in (None, printed):
        raise InvalidRequest(
            f"The last step of --after prints text, so the result is {printed.value} and cannot be {request.output}.",
            hint="Leave --output out, or that step.",
        )
    if printed is not None and request.level is not None:
        raise InvalidRequest("A result that is text is not compressed, so it has no level.", hint="Leave --level out.")
    chosen = printed or request.output or OutputFormat.VCF_GZ
    level = DEFAULT_LEVEL if request.level is None else request.level
    return Output(chosen, level, f"{request.name}.{chosen.suffix}")
