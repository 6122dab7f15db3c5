"""Mistakes in the service, which random clients must find. A test plants one at a time."""

from support.faults_of_gradients import Fault

# Each row: a module, a description, the old text, the new text.
ROWS = [
    ("sender", "a repeated step is stepped again", "(sequence == after - 1) & (sequence > 0),", "sequence == -1,"),
    ("sender", "any number is stepped", "                sequence == after,\n", "                sequence > 0,\n"),
    ("sender", "deadlines don't count", "deadlines < self._loop.time()", "deadlines < 0"),
    (
        "sender",
        "rows without a session are looked up",
        "                slots == NONE,\n",
        "                slots == 2**40,\n",
    ),
    ("sender", "the next number doesn't grow", "sessions.next[slots] += is_step", "pass"),
    (
        "sender",
        "news at a call is not heard",
        "            self._hear(error)\n            return False",
        "            return False",
    ),
    (
        "sender",
        "news in an answer is not heard",
        "            self._hear(error)\n            result, delivered",
        "            result, delivered",
    ),
    (
        "sender",
        "late news is not heard",
        "                self._hear(error)\n                waits = False",
        "                waits = False",
    ),
    (
        "sender",
        "rows are sent after news without another look",
        "                    break  #",
        "                    continue  #",
    ),
    (
        "sender",
        "rows that were not delivered are OK",
        "result, delivered = error.result, error.delivered\n        except Late",
        "result = error.result\n        except Late",
    ),
    (
        "sender",
        "late rows are OK",
        "result, delivered, late = error.result, error.delivered, error.call",
        "result, late = error.result, error.call",
    ),
    (
        "sender",
        "late sessions stay so",
        "is_late[slots[slots != NONE]] = False",
        "is_late[slots[slots != NONE]] = True",
    ),
    ("ticks", "a tick never ends", "        self._tasks.discard(task)\n", ""),
    (
        "waiting",
        "a session is twice in a tick",
        "found: NumpyArray = is_first | (slots == NONE)",
        "found: NumpyArray = is_first | True",
    ),
    ("waiting", "a session is in a tick again", " & (self._taken_in[slots] != self._tick)", ""),
    ("waiting", "rows that wait longer lose their order", "extendleft(reversed(later))", "extendleft(later)"),
    ("waiting", "the rest of a message goes to the end", "appendleft(part._replace", "append(part._replace"),
    (
        "waiting",
        "results go to the message's first rows",
        "own = part.rows[rows[start:stop] - (end - len(part.rows))]",
        "own = rows[start:stop] - (end - len(part.rows))",
    ),
    ("waiting", "the count of rows is wrong", "self.count -= len(part.rows)", "self.count -= len(part.message)"),
    ("waiting", "rows without room are lost", "return np.flatnonzero(~has_room)", "return rows[:0]"),
    (
        "open_sessions",
        "handles of closed sessions are good",
        "(self._handles[slots] == handles) & (handles != 0)",
        "(self._handles[slots] != 0) & (handles != 0)",
    ),
    (
        "open_sessions",
        "a new session has the number of an old one",
        "1 if next_numbers is None else",
        "self.next[slots] if next_numbers is None else",
    ),
    (
        "open_sessions",
        "sessions go back one step only",
        "np.fromiter((changes[key] for key in keys)",
        "np.fromiter((1 for key in keys)",
    ),
    ("open_sessions", "a closed session keeps its handle", "        self._handles[slots] = 0", "        pass"),
    (
        "service",
        "an open's news is not heard",
        "            self._hear(error)\n        except LateShardsError",
        "            pass\n        except LateShardsError",
    ),
    (
        "messages",
        "outputs are those of other rows",
        "            self.h[rows] = h\n",
        "            self.h[rows] = h[::-1]\n",
    ),
    ("messages", "a message is done too early", "self._left -= len(rows)", "self._left = 0"),
]
ALL = [Fault(module, what, old, new, "fusedlstm.ray.serve") for module, what, old, new in ROWS]
