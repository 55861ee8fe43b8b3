"""The verdict in sentences: what resolution is claimed, what limits it, and what should be known beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gem3d.assess import FSC_THRESHOLD, resolution_at
from gem3d.assess.claim import ends_with_the_data
from gem3d.assess.directional import DirectionalFSC
from gem3d.assess.phase_randomisation import TIGHT_MASK_FSC
from gem3d.assess.shells import shell_resolution_A
from gem3d.assessment import MASK_WARNING, ORIENTATION_WARNING, PREFERRED_ORIENTATION_CFAR, Assessment
from gem3d.summary import describe_claim

Level = Literal["good", "note", "warning"]

# Quartiles of local resolution this far apart are worth a word.
FLEXIBLE_QUARTILES = 1.25
# From 0.5 to 0.143 within so few shells: noise makes no curve fall like this.
ABRUPT_SHELLS = 1.5
# A difference of resolutions that is worth a warning.
LARGE_DIFFERENCE = 0.03
LARGE_UNSEEN = 0.005
SHARED_ERRORS = (
    "Errors which both halves share, such as wrong poses or a wrong pixel size, are invisible to any measure made of "
    "half maps, this one too: compare with an atomic model or another map of known scale."
)


@dataclass(frozen=True)
class Finding:
    """One sentence or two for the reader."""

    level: Level
    text: str


def verdict(
    assessment: Assessment, warnings: tuple[str, ...] = (), *, limited: bool = False
) -> list[Finding]:
    """What the assessment comes to, most important first.

    Parameters
    ----------
    warnings: of the run that made the maps.
    limited: it was told to use nothing finer (--max-resolution).
    """
    limited = limited and _ends_before_nyquist(assessment)
    return [
        _resolution(assessment, limited),
        *_limits(assessment, limited),
        *_agreement_of_the_prior(assessment),
        *_masks(assessment),
        *_held_out(assessment),
        *_views(assessment),
        *_reference(assessment),
        *(
            Finding("warning", f"Said during the run: {_sentence(text)}")
            for text in warnings
            if _is_news(text)
        ),
        Finding("note", SHARED_ERRORS),
    ]


def resolution_range(a: Assessment, directional: DirectionalFSC) -> tuple[str, str]:
    """The worst and the best resolution over directions, in words."""
    finite = directional.resolution_A[np.isfinite(directional.resolution_A)]
    unknown = ~np.isfinite(directional.resolution_A)
    # A curve without a crossing ends above the threshold, or begins below it.
    above = directional.curves[unknown, -1] >= FSC_THRESHOLD
    end = f"{_resolution_A(a, directional.curves.shape[1] - 1):.1f} A, where the valid range ends,"
    worst = "nothing" if (~above).any() else f"{finite.max():.1f} A" if len(finite) else end
    best = end if above.any() else f"{finite.min():.1f} A" if len(finite) else "nothing"
    return worst, best


def _resolution(a: Assessment, limited: bool) -> Finding:
    """The claim, by the same words as in summary.json."""
    text = f"Resolution: {describe_claim(a.claim, limited=limited)}."
    if not a.has_linear:
        text += (
            " No linear half maps were given, so this is the ordinary FSC of the half maps, masked after the shell "
            "filter. Half maps made with a prior (Gaussians, a network, a denoiser) agree more than they are right, "
            "and this FSC cannot tell."
        )
    if a.claim.kind == "none":
        return Finding("warning", text)
    return Finding("good" if a.has_linear and a.claim.resolution_A is not None else "note", text)


def _limits(a: Assessment, limited: bool) -> list[Finding]:
    """What keeps the resolution from being finer."""
    findings = (
        [] if a.claim.kind == "none" else [Finding("note", f"What limits it: {_limit_of_curve(a, limited)}")]
    )
    directional = a.directional
    if directional is not None and directional.cfar < PREFERRED_ORIENTATION_CFAR:
        worst, best = resolution_range(a, directional)
        text = (
            f"What limits it: preferred orientation. The worst direction reaches {worst} against {best} in the best "
            f"(cFAR {directional.cfar:.2f}, below {PREFERRED_ORIENTATION_CFAR:g}): the map is smeared along the "
            "worst one. More views from missing sides help, more of the same views do not."
        )
        findings.append(Finding("warning", text))
    if a.local is not None and a.local.quartiles_A[1] > FLEXIBLE_QUARTILES * a.local.quartiles_A[0]:
        low, high = a.local.quartiles_A
        text = (
            f"What limits it in parts: flexibility or disorder. The quartiles of local resolution go from {low:.1f} "
            f"to {high:.1f} A: a single number describes no part of this map well."
        )
        findings.append(Finding("note", text))
    return findings


def _limit_of_curve(a: Assessment, limited: bool) -> str:
    curve, last = a.calibrated.smoothed, a.calibrated.valid_up_to_shell
    if a.claim.kind == "last valid shell":
        assert last is not None
        at_end = f"the curve is still at {curve[last]:.2f} in the last shell that can be judged"
        if not ends_with_the_data(a.claim):
            kind = "linear half maps" if a.has_linear else "half maps"
            return (
                f"the number of particles, or their noise. Beyond {_resolution_A(a, last):.2f} A the {kind} do not "
                f"correlate significantly, though {at_end}. More particles would carry it on."
            )
        if limited:
            return (
                f"the end of the data, not the particles: {at_end}, and nothing finer was used. Run again with a "
                "finer --max-resolution."
            )
        if _ends_before_nyquist(a):
            return f"the end of the data, not the particles: {at_end}, and nothing finer is in the maps."
        return (
            f"Nyquist, the end of the data, not the particles: {at_end} (Nyquist is {2 * a.pixel_size_A:.2f} A). "
            "Extract the particles with smaller pixels to see more."
        )
    valid = curve[: (last or 0) + 1]
    first = a.calibrated.first_tested_shell or 1
    half, end = (
        resolution_at(valid, threshold, a.pixel_size_A, a.box_size_px, first_shell=first)
        for threshold in (0.5, FSC_THRESHOLD)
    )
    if half.shell is None or end.shell is None:
        return "the number of particles, or their noise: the curve is low from its first shells on."
    fall = f"from 0.5 at {half.resolution_A:.1f} A to {FSC_THRESHOLD:g} at {end.resolution_A:.1f} A"
    if end.shell - half.shell < ABRUPT_SHELLS:
        return (
            f"something abrupt: the curve breaks off, {fall}. Noise makes a curve fall smoothly; a filter or the end "
            "of the data does not. Half maps must be unfiltered."
        )
    return (
        f"the number of particles, or their noise: the curve falls smoothly, {fall}. More particles move it."
    )


def _agreement_of_the_prior(a: Assessment) -> list[Finding]:
    """How much finer the ordinary FSC of the half maps would have it."""
    found_A = a.claim.estimate_A
    if not a.has_linear or found_A is None:
        return []
    ordinary = resolution_at(a.half.masked, FSC_THRESHOLD, a.pixel_size_A, a.box_size_px)
    last_A = _resolution_A(a, len(a.half.masked) - 1)
    endless = ordinary.resolution_A is None and a.half.masked[-1] >= FSC_THRESHOLD
    if ordinary.resolution_A is None and not endless:
        return []
    ordinary_A = ordinary.resolution_A or last_A
    difference = found_A / ordinary_A - 1
    if endless and difference <= LARGE_DIFFERENCE:
        return []  # both go to the end of the data, which says nothing
    if difference <= LARGE_DIFFERENCE:
        text = (
            f"The ordinary masked FSC of the half maps crosses {FSC_THRESHOLD:g} at {ordinary_A:.2f} A, within "
            f"{max(100 * abs(difference), 1):.0f} % of the claim: the prior made next to no agreement."
        )
        return [Finding("good", text)]
    where = (
        f"is not below {FSC_THRESHOLD:g} up to {ordinary_A:.2f} A, the last shell,"
        if endless
        else f"crosses {FSC_THRESHOLD:g} at {ordinary_A:.2f} A,"
    )
    least = "at least " if endless else ""
    text = (
        f"Agreement the prior made: the ordinary masked FSC of the half maps {where} {least}"
        f"{100 * difference:.0f} % finer than the {found_A:.2f} A of the calibrated one. That part of the agreement "
        "(and what the mask added to it) is not signal; do not quote it."
    )
    return [Finding("warning", text)]


def _masks(a: Assessment) -> list[Finding]:
    pairs = (("half maps", a.half), ("linear half maps", a.linear))
    tight = [name for name, curves in pairs if curves is not None and curves.mask_too_tight]
    if not tight:
        return []
    text = (
        f"The mask is too tight for the masked and corrected curves of the {' and '.join(tight)}: with random phases "
        f"it alone makes a correlation above {TIGHT_MASK_FSC:g} at their resolution. The claim is masked after the "
        "shell filter and hardly affected; give a softer mask to read the others."
    )
    return [Finding("warning", text)]


def _held_out(a: Assessment) -> list[Finding]:
    """Shells within the resolution where the map explains unseen particles worse than an empty map."""
    if a.likelihood is None or a.claim.estimate_A is None:
        return []
    last = int(a.box_size_px * a.pixel_size_A / a.claim.estimate_A + 1e-6)
    findings = []
    for number, gain in enumerate(a.likelihood, start=1):
        bad = gain.follows_noise(last)
        if len(bad) == 0:
            continue
        ends = sorted(
            {f"{_resolution_A(a, shell):.1f}" for shell in (bad[0], bad[-1])}, key=float, reverse=True
        )
        where = f"between {' and '.join(ends)} A" if len(ends) > 1 else f"at {ends[0]} A"
        text = (
            f"Half {number} explains held-out particles worse than no map at all {where}, by more than chance does: "
            "there it follows noise."
        )
        findings.append(Finding("warning", text))
    if not findings:
        n = " and ".join(f"{gain.n_unseen:,}" for gain in a.likelihood)
        known = all(gain.gains_at(last) for gain in a.likelihood)
        text = (
            f"Up to the resolution the maps explain particles that they have never seen ({n} of the two halves)."
            if known
            else f"The particles that were held out ({n} of the two halves) are too few to tell whether the maps "
            "follow noise up to the resolution; where they can tell, they do not say so."
        )
        findings.append(Finding("good" if known else "note", text))
    return findings


def _views(a: Assessment) -> list[Finding]:
    findings = []
    if a.orientations is not None and a.orientations.unseen > LARGE_UNSEEN:
        text = (
            f"No image reaches {100 * a.orientations.unseen:.1f} % of the directions of Fourier space: what the map "
            "shows along them is not measured."
        )
        findings.append(Finding("warning", text))
    if a.directional is not None and a.directional.cfar >= PREFERRED_ORIENTATION_CFAR:
        worst, best = resolution_range(a, a.directional)
        text = (
            f"Resolution along directions goes from {best} in the best to {worst} in the worst (cFAR "
            f"{a.directional.cfar:.2f}, not below {PREFERRED_ORIENTATION_CFAR:g})."
        )
        findings.append(Finding("good", text))
    return findings


def _reference(a: Assessment) -> list[Finding]:
    if a.reference is None:
        return []
    found = a.reference.crossing
    where = (
        f"crosses 0.5 at {found.resolution_A:.2f} A"
        if found.resolution_A is not None
        else f"is {found.reason}"
    )
    text = (
        f"Against the reference {a.reference.name}: the masked FSC {where}; inside the mask the correlation is "
        f"{a.reference.correlation:.3f}, both low-passed to {a.reference.low_pass_A:.1f} A."
    )
    return [Finding("note", text)]


def _ends_before_nyquist(a: Assessment) -> bool:
    return len(a.calibrated.smoothed) - 1 < (a.box_size_px - 1) // 2


def _resolution_A(a: Assessment, shell: int) -> float:
    return shell_resolution_A(shell, a.pixel_size_A, a.box_size_px)


def _is_news(warning: str) -> bool:
    """Whether no finding above says the same."""
    return not warning.startswith((MASK_WARNING, ORIENTATION_WARNING))


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."
