"""The drawn replay is well-formed, complete, and safe."""

from xml.etree import ElementTree as ET

from gateway.simulation.plot import Plotted, replay_svg
from gateway.simulation.record import Sample
from gateway.simulation.results import Result

SVG = "{http://www.w3.org/2000/svg}"


def a_run(policy: str, goodput: float) -> Plotted:
    """A run with three samples."""
    samples = [Sample(0.0, 0.0, 0), Sample(5.0, 0.5, 7), Sample(10.0, 1.0, 35)]
    return Plotted(Result(policy, goodput, 0.5, 3, 0.1, 0.6, 1.0, 0.05, 0.02, 10), samples)


def test_draws_every_policy_with_its_name_and_numbers() -> None:
    """A bar each, and a line each for memory and for queues; names beside bars and in both legends."""
    root = ET.fromstring(replay_svg("a & b", [a_run("none", 1.0), a_run("kvgate", 4.0)]))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts.count("kvgate") == 3
    assert {"4.00 (50%)", "a & b", "40", "20", "100"} <= set(texts)
    lines = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    assert len(lines) == 4
    assert len({line.split(",")[0] for line in lines[0]}) == 3
    widths = [float(bar.attrib["width"]) for bar in list(root.iter(f"{SVG}rect"))[1:]]
    assert widths[1] == 4 * widths[0]


def test_reads_on_light_and_dark_ground() -> None:
    """Colours of text and ground follow the viewer's scheme; lines differ in dashes as well."""
    text = replay_svg("t", [a_run(str(number), 0.0) for number in range(9)])
    assert "prefers-color-scheme:dark" in text
    assert len({line.attrib["stroke-dasharray"] for line in ET.fromstring(text).iter(f"{SVG}polyline")}) == 7


def test_nothing_to_draw_is_still_a_picture() -> None:
    """No runs, or runs without samples."""
    for runs in ([], [Plotted(a_run("none", 0.0).result, [])]):
        assert ET.fromstring(replay_svg("t", runs)).tag == f"{SVG}svg"
