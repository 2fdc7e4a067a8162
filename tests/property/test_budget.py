"""A budget's ledger over any history: nothing counts twice, and nothing that was seen is lost."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from runyard.api.gpubudget import GPUBudgetSpec
from runyard.decide import budgets
from runyard.decide.budgets import Ledger, Spent

WINDOW_DAYS = 3
SPEC = GPUBudgetSpec(gpu_hours=1, window_days=WINDOW_DAYS)
NAMESPACES = ("a", "b")
RUNS = st.integers(0, 5)


class Books(RuleBasedStateMachine):
    """Runs spend, an operator sees and books, dies and forgets; days go by. Beside it, what each day should have."""

    @initialize(late=st.booleans())
    def begin(self, late: bool) -> None:
        """Half of the runs are in each namespace; the budget may come when some have spent already."""
        self.today = date(2026, 1, 1)
        self.spent = dict.fromkeys((f"run-{number}" for number in range(6)), 50 if late else 0)
        self.stored = budgets.select_namespaces(Ledger(), frozenset(NAMESPACES), self.view())
        self.booked = dict(self.spent)
        """What of each run should be in the ledger."""
        self.expected: dict[tuple[date, str], int] = {}
        self.memory: dict[str, Spent] = {}
        self.views = [(self.today, self.view())]
        self.gone: set[str] = set()

    def view(self) -> dict[str, Spent]:
        return {uid: Spent(NAMESPACES[int(uid[-1]) % 2], seconds) for uid, seconds in self.spent.items()}

    @rule(number=RUNS, seconds=st.integers(1, 100))
    def spend(self, number: int, seconds: int) -> None:
        if (uid := f"run-{number}") in self.spent:
            self.spent[uid] += seconds

    @rule(number=RUNS)
    def see(self, number: int) -> None:
        if (uid := f"run-{number}") in self.spent:
            self.memory[uid] = self.view()[uid]
            self.views.append((self.today, self.view()))

    @rule(outcome=st.sampled_from(["written", "lost", "written, and the answer is lost"]))
    def book(self, outcome: str) -> None:
        """What the writer has no answer to leaves its memory as it was."""
        new = budgets.close(budgets.book(self.stored, self.memory, self.today), self.gone, SPEC, self.today)
        if outcome == "lost":
            return
        self.stored = new
        for uid, spent in self.memory.items():
            key = (self.today, spent.namespace)
            self.expected[key] = self.expected.get(key, 0) + max(0, spent.gpu_seconds - self.booked[uid])
            self.booked[uid] = max(self.booked[uid], spent.gpu_seconds)
        if outcome == "written":
            self.memory, self.gone = {}, set()

    @rule(data=st.data())
    def book_from_an_old_view(self, data: st.DataObject) -> None:
        """What another replica saw a day ago or less, of runs that may be gone since."""
        views = [view for day, view in self.views if day >= self.today - timedelta(1)]
        view = data.draw(st.sampled_from(views or [{}]))
        booked = {uid: spent for uid, spent in view.items() if self.booked[uid] >= spent.gpu_seconds}
        assert budgets.book(self.stored, booked, self.today) == self.stored

    @rule(number=RUNS)
    def delete(self, number: int) -> None:
        if self.spent.pop(uid := f"run-{number}", None) is not None:
            self.gone.add(uid)

    @rule()
    def die(self) -> None:
        """And find, once back, which runs are gone."""
        self.memory, self.gone = {}, set(self.stored.runs) - set(self.spent)

    @rule()
    def sleep(self) -> None:
        self.today += timedelta(1)

    @invariant()
    def the_window_has_what_was_booked_in_it_and_nothing_twice(self) -> None:
        first_day = budgets.first_day(SPEC, self.today)
        used = budgets.sum_up(self.stored, SPEC, self.today)
        for namespace in NAMESPACES:
            want = sum(s for (day, name), s in self.expected.items() if name == namespace and day >= first_day)
            assert used.get(namespace, 0) == want


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
