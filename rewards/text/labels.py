"""A rule-based labeller of chest X-ray reports: which of CheXpert's 14 categories one asserts, doubts or denies.

What lives here: how phrases act on each other in a sentence, and aggregation over a report. What does not: the
phrases (phrases.toml) and what is made of labels (clinical_lite.py).

Three steps, as the CheXpert labeler takes them (Irvin et al. 2019, §3): mentions are found; each is positive,
uncertain or negative by the cues whose scope it lies in; mentions of one category are aggregated. Scopes are rules
over the order of words (compare NegEx, Chapman et al. 2001), not a parse: linear in the text and some ten thousand
reports a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rewards.categories import CATEGORIES, NO_FINDING, SUPPORT_DEVICES, Status
from rewards.text.pair import MAX_CHARACTERS
from rewards.text.phrases import SENTENCE_END, Entry, Found, Table, find_phrases, shipped_table

_REACH = 4
"""Words between a word and the noun that it stands before: "enlargement of the heart"."""
_LOOK_AHEAD = 40
"""Phrases that are looked at after one: bounds the time of a text without sentence ends."""


_STRENGTH = {Status.NEGATIVE: 0, Status.UNCERTAIN: 1, Status.POSITIVE: 2}
_JOINT_STATUS = {"joined": Status.POSITIVE, "doubtful": Status.UNCERTAIN, "denied": Status.NEGATIVE}


@dataclass(slots=True)
class Mention:
    """One mention of a finding of the phrase table."""

    finding: str
    status: Status
    start: int
    """Token of the text at which the phrase begins that made it a mention (see ``find_phrases``)."""


def mentions(report: str, table: Table | None = None) -> list[Mention]:
    """Every mention of a finding of ``table`` (the shipped one), in order. Never raises."""
    table = table or shipped_table()
    return _Reader(table, find_phrases(report[:MAX_CHARACTERS], table.root)).read()


def findings(report: str) -> dict[str, Status]:
    """Finding of the phrase table → its strongest status: positive over uncertain over negative."""
    strongest: dict[str, Status] = {}
    for mention in mentions(report):
        _keep_stronger(strongest, mention.finding, mention.status)
    return strongest


def label(report: str) -> dict[str, Status]:
    """CheXpert category → its status; a category that is not mentioned is absent.

    Aggregation as the CheXpert labeler documents it: positive if any mention is, else uncertain if any is, else
    negative. No Finding is positive when no category but Support Devices is positive or uncertain, and never
    anything else.
    """
    categories = shipped_table().categories
    labels: dict[str, Status] = {}
    for finding, status in findings(report).items():
        category = categories[finding]
        if category is not None:
            _keep_stronger(labels, category, status)
    if all(status is Status.NEGATIVE or category == SUPPORT_DEVICES for category, status in labels.items()):
        labels[NO_FINDING] = Status.POSITIVE
    return {category: labels[category] for category in CATEGORIES if category in labels}


def _keep_stronger(strongest: dict[str, Status], name: str, status: Status) -> None:
    if name not in strongest or _STRENGTH[status] > _STRENGTH[strongest[name]]:
        strongest[name] = status


@dataclass(slots=True)
class _Scope:
    """What holds at one place of a sentence.

    Attributes:
        denied, doubted, ignored: a cue before is in force.
        cue: token of the last word that denies or doubts what follows.
        versus: the next mention is the other side of a "versus".
        verb: the clause has its verb.
        fresh: a separator came after the verb, so that the next noun opens a clause of its own.
        separator: kind of the last separator, and the token after it.
        listed: the mentions are joined by "and" or "or", so that a cue after them means them all.
        mentions: of the clause, which a cue after them may reach.
        subjects: groups of the nouns of the clause, each once.
        waiting: states that stand before the noun they belong to, and their status.
    """

    denied: bool = False
    doubted: bool = False
    ignored: bool = False
    cue: int = -1
    versus: bool = False
    verb: bool = False
    fresh: bool = False
    separator: tuple[str, int] = ("", -1)
    listed: bool = False
    mentions: list[Mention] = field(default_factory=list)
    subjects: list[frozenset[str]] = field(default_factory=list)
    waiting: list[tuple[frozenset[str], Status]] = field(default_factory=list)

    @property
    def status(self) -> Status:
        return Status.NEGATIVE if self.denied else Status.UNCERTAIN if self.doubted else Status.POSITIVE


class _Reader:
    """Goes through the phrases of one report from left to right."""

    def __init__(self, table: Table, phrases: Sequence[Found]) -> None:
        self._table, self._phrases = table, phrases
        self._scope = _Scope()
        self._mentions: list[Mention] = []
        self._start = 0

    def read(self) -> list[Mention]:
        for index, found in enumerate(self._phrases):
            entry, self._start = found.entry, found.start
            if entry.cues:
                self._cue(index, entry.cues)
            if entry.subjects:
                self._subject(index, entry)
            if entry.states:
                self._state(index, found)
            for finding in entry.findings:
                self._enter_clause()
                self._mention(finding, Status.UNCERTAIN if self._scope.versus else self._scope.status)
            if entry.findings:
                self._scope.versus = False
        return self._mentions

    def _cue(self, index: int, cues: frozenset[str]) -> None:
        scope = self._scope
        if SENTENCE_END in cues:
            self._scope = _Scope()
        elif "ends" in cues:
            self._scope = _Scope(fresh=True, mentions=scope.mentions, subjects=scope.subjects)
        elif "passes" not in cues:
            self._separate(index, cues)
            scope.verb |= "verb" in cues
            scope.ignored |= "ignores" in cues
            scope.denied &= "ends_denial" not in cues
            self._open_item(index, cues)
            self._deny_or_doubt(index, cues)

    def _separate(self, index: int, cues: frozenset[str]) -> None:
        scope = self._scope
        kind = next((kind for kind in ("comma", "and", "or", "with") if kind in cues), None)
        if kind is None:
            return
        scope.separator = (kind, self._phrases[index].end)
        scope.listed |= kind in ("and", "or")
        scope.fresh |= scope.verb and kind != "or"
        scope.ignored &= kind != "comma"

    def _open_item(self, index: int, cues: frozenset[str]) -> None:
        kind, end = self._scope.separator
        if "opens" not in cues or kind == "or" or self._phrases[index].start > end + 1 or self._scope.cue >= end:
            return
        if (self._scope.denied or self._scope.doubted) and not self._list_goes_on(index):
            self._scope.denied = self._scope.doubted = False
            self._scope.mentions = []

    def _deny_or_doubt(self, index: int, cues: frozenset[str]) -> None:
        scope = self._scope
        if "versus" in cues:
            scope.versus = True
            _doubt(scope.mentions[-1:])
        before = cues & {"denies", "doubts"}
        if before and (not (cues & {"denied", "doubted"} and scope.mentions) or self._noun_after(index)):
            scope.denied |= "denies" in cues
            scope.doubted |= "doubts" in cues
            scope.fresh = scope.verb = False
            scope.cue, scope.mentions = self._start, []
            return
        reached = scope.mentions if scope.listed else scope.mentions[-1:]
        if "denied" in cues:
            for mention in reached:
                mention.status = Status.NEGATIVE
        if "doubted" in cues:
            _doubt(reached)

    def _enter_clause(self) -> None:
        if self._scope.fresh:
            self._scope = _Scope(ignored=self._scope.ignored, versus=self._scope.versus)

    def _subject(self, index: int, entry: Entry) -> None:
        scope, (kind, end) = self._scope, self._scope.separator
        opens = kind in ("comma", "and") and scope.cue < end and self._start <= end + 1
        if opens and (scope.denied or scope.doubted) and self._verb_follows(index):
            scope.fresh = True  # "no effusion, heart is enlarged"
        self._enter_clause()
        for states, status in self._scope.waiting:
            self._join(entry.subjects, states, status)
        self._scope.waiting = []
        if entry.subjects not in self._scope.subjects:
            self._scope.subjects.append(entry.subjects)

    def _state(self, index: int, found: Found) -> None:
        scope = self._scope
        noun = self._noun_after(index)
        if noun is not None:
            if not noun.findings:
                self._enter_clause()
                self._scope.waiting.append((found.entry.states, self._scope.status))
        elif not scope.fresh or found.start <= scope.separator[1] + 1:
            for subjects in scope.subjects:
                self._join(subjects, found.entry.states, scope.status)

    def _join(self, subjects: frozenset[str], states: frozenset[str], status: Status) -> None:
        for pair in ((subject, state) for subject in sorted(subjects) for state in sorted(states)):
            for finding, kind in self._table.joints.get(pair, ()):
                meant = _JOINT_STATUS[kind]
                if meant is Status.NEGATIVE and status is not Status.POSITIVE:
                    continue  # "not clear" says nothing of what is there
                self._mention(finding, min(meant, status, key=_STRENGTH.__getitem__))

    def _mention(self, finding: str, status: Status) -> None:
        if not self._scope.ignored:
            mention = Mention(finding, status, self._start)
            self._mentions.append(mention)
            self._scope.mentions.append(mention)

    def _list_goes_on(self, index: int) -> bool:
        """Whether an "or" follows before the sentence or the scope ends."""
        last = self._until(index, lambda found: bool(found.entry.cues & {"or", "ends", "denies", SENTENCE_END}))
        return last is not None and "or" in last.entry.cues

    def _verb_follows(self, index: int) -> bool:
        """Whether the noun has a verb of its own, before the next separator or finding."""
        stops = {"verb", "comma", "and", "or", "with", "ends", SENTENCE_END}
        last = self._until(index, lambda found: bool(found.entry.findings or found.entry.cues & stops))
        return last is not None and "verb" in last.entry.cues

    def _noun_after(self, index: int) -> Entry | None:
        """The finding or subject that the phrase stands directly before, if it does."""
        end = self._phrases[index].end
        last = self._until(
            index,
            lambda found: bool(
                found.start > end + _REACH
                or found.entry.findings
                or found.entry.subjects
                or found.entry.cues & {"comma", "and", "or", "with", "denies", "ends", "verb", SENTENCE_END}
            ),
        )
        if last is None or last.start > end + _REACH or not (last.entry.findings or last.entry.subjects):
            return None
        return last.entry

    def _until(self, index: int, stops: Callable[[Found], bool]) -> Found | None:
        for i in range(index + 1, min(len(self._phrases), index + 1 + _LOOK_AHEAD)):
            if stops(self._phrases[i]):
                return self._phrases[i]
        return None


def _doubt(mentioned: Sequence[Mention]) -> None:
    for mention in mentioned:
        if mention.status is Status.POSITIVE:
            mention.status = Status.UNCERTAIN
