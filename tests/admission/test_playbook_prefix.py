"""The policy of admission, rule by rule: prompts that begin as others did go where those went, as far as that pays."""

from dataclasses import replace

from gateway.domain import Ticket
from tests.admission.words import BLOCK, MODEL, Playbook, reading, ticket

ANN, BOB = 100, 200
"""Conversations; the next numbers name their parts."""


def turn(ticket_id: int, conversation: int, parts: int, *, output: int = BLOCK) -> Ticket:
    """The conversation up to there: each part is ten blocks of prompt, then comes the answer."""
    asked = ticket(ticket_id, 10 * parts + output // BLOCK, output=output)
    names = tuple(range(conversation, conversation + parts))
    return replace(asked, prefix=names, prefix_tokens=10 * parts * BLOCK)


def talk() -> Playbook:
    """Ann's first turn went to one of two engines, Bob's to the other."""
    play = Playbook().engine("a", blocks=1000).engine("b", blocks=1000)
    play.arrives(turn(1, ANN, 4), "1>a").arrives(turn(2, BOB, 4), "2>b")
    return play


def test_conversations_stay_where_they_began_while_there_is_room() -> None:
    """Turn after turn, in whatever order they come, although the other engine has a little more room."""
    play = talk()
    for number, (conversation, parts) in enumerate([(BOB, 5), (BOB, 6), (ANN, 5), (BOB, 7), (ANN, 6), (ANN, 7)]):
        home = "a" if conversation == ANN else "b"
        play.at(1.0 + number).arrives(turn(10 + number, conversation, parts), f"{10 + number}>{home}")


def test_one_that_begins_like_nothing_goes_where_there_is_most_room() -> None:
    """As before."""
    play = talk().at(1.0)
    play.arrives(turn(3, BOB, 6), "3>b").arrives(turn(4, 300, 5), "4>a").arrives(ticket(5, 10), "5>a")


def test_without_room_at_home_it_goes_elsewhere() -> None:
    """At once: it does not wait for its cache. From then on it is at home there as well."""
    play = talk().at(1.0).arrives(ticket(3, 900, excluded=["b"], output=800 * BLOCK), "3>a")
    play.at(5.0).arrives(turn(4, ANN, 6), "4>b").arrives(turn(5, ANN, 8), "5>b")


def test_a_home_that_is_much_fuller_is_left() -> None:
    """A cache is worth a part of a pool at most: not everybody who begins alike may end up on one engine."""
    play = talk().at(1.0).arrives(ticket(3, 500, excluded=["b"], output=400 * BLOCK), "3>a")
    play.at(5.0).arrives(turn(4, ANN, 5), "4>b")


def test_an_engine_that_keeps_nothing_is_no_home() -> None:
    """Its counter of hits does not move: after enough prompts a little more room elsewhere is worth more."""
    play = talk().arrives(ticket(3, 200, excluded=["b"]), "3>a")
    for number in range(10, 90):
        play.at(play.now + 1.0)
        for name in "ab":
            play.reads(replace(reading(play.now, backend=name, blocks=1000), prefix_hit_tokens=0.0))
        play.arrives_somehow(turn(number, ANN, 4)).ends(number)
    homes = [play.admits[number].backend for number in range(10, 90)]
    assert homes == sorted(homes)
    assert set(homes) == {"a", "b"}


def test_shared_beginnings_make_work_cheaper_in_line() -> None:
    """Of two that wait, the one whose prompt need not be read again counts as the shorter."""
    play = talk()
    roster = play.admission._roster
    assert len(roster.engines_serving(MODEL)) == 2
    known, unknown = turn(3, ANN, 4), turn(4, 300, 4)
    assert roster.cost_s(known) < roster.cost_s(unknown)
