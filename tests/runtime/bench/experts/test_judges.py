"""The judges of held-out replies: what they take, what they refuse, and what they never run."""

import sqlite3

import pytest

from runtime.bench.experts.commands import is_contained, judge_command, run_command
from runtime.bench.experts.french import is_french, judge_french
from runtime.bench.experts.netlists import judge_netlist, parse_netlist, read_number
from runtime.bench.experts.queries import judge_query, run_query
from runtime.bench.experts.sexpressions import judge_sexpressions, parse_sexpressions
from runtime.bench.experts.verdict import ExpertVerdict, extract_block

RIGHT, ALONE, WRONG = ExpertVerdict(True), ExpertVerdict(True, alone=True), ExpertVerdict(False)
PAD = '(pad "1" smd rect (at 1.5 0) (size 0.8 0.9) (layers "F.Cu" "F.Mask" "F.Paste"))'
DIVIDER = "* Divider\nV1 in 0 DC 5\nR1 in out 10k\nR2 out 0 4.7k\n.op\n.end"
PEOPLE = "CREATE TABLE people(name TEXT, age INTEGER); INSERT INTO people VALUES ('ann', 35), ('bob', 41), ('cid', 25);"
FOLDER = "printf '%s\\n' b a b > letters.txt; mkdir box"


def test_a_block_is_the_first_fence_or_everything() -> None:
    assert extract_block("Sure:\n```sql\nSELECT 1;\n```\nThat is it. ```x```") == "SELECT 1;"
    assert extract_block("```\nls\n") == "ls"
    assert extract_block(" ls ") == "ls"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (PAD, ALONE),
        ('(pad 1 smd rect (size 0.80 0.9) (at 1.5 0 0) (layers "F.Mask" "F.Paste" "F.Cu") (uuid "x"))', ALONE),
        (f"Here it is:\n```lisp\n{PAD}\n```", RIGHT),
        (f"The pad is {PAD} in KiCad.", RIGHT),
        (f'(footprint "R" {PAD})', ALONE),
        (PAD.replace("1.5", "1.6"), WRONG),
        (PAD.replace(' "F.Paste"', ""), WRONG),
        (PAD[:-1], WRONG),
        ("I cannot do that.", WRONG),
        ("", WRONG),
    ],
)
def test_sexpressions_are_compared_by_what_they_say(reply: str, verdict: ExpertVerdict) -> None:
    assert judge_sexpressions(reply, PAD) == verdict


def test_a_stroke_counts_by_its_width_and_letters_by_their_size() -> None:
    line = '(gr_line (start 0 0) (end 5 0) (stroke (width 0.1) (type default)) (layer "Edge.Cuts"))'
    assert judge_sexpressions('(gr_line (start 0 0) (end 5 0) (layer "Edge.Cuts") (width 0.1))', line).right
    assert not judge_sexpressions(line.replace("0.1", "0.2"), line).right
    text = '(gr_text "A" (at 1 2 0) (layer "F.SilkS") (effects (font (size 2 2) (thickness 0.15))))'
    assert judge_sexpressions(text.replace("0.15", "0.3"), text).right
    assert not judge_sexpressions(text.replace("size 2 2", "size 1 1"), text).right


@pytest.mark.parametrize("text", ["(a", "a", "(a))", '(a "b)', ")"])
def test_broken_sexpressions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="brackets"):
        parse_sexpressions(text)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (DIVIDER, ALONE),
        ("* x\nVin a GND 5\nRtop b a 10kOhm\nRlow b 0 4700\n.OP\n.END", ALONE),
        (f"Here:\n```spice\n{DIVIDER}\n```\nDone.", RIGHT),
        ("Divider\nV1 in 0 DC 5\nR1 in out 10k\nR2 out 0 4.7k\n.op", RIGHT),
        (DIVIDER.split("\n", 1)[1], WRONG),  # the first line is a title, so the source is gone
        (DIVIDER.replace("R2 out", "R2 in"), WRONG),
        (DIVIDER.replace("V1 in 0", "V1 0 in"), WRONG),
        (DIVIDER.replace("4.7k", "4.7"), WRONG),
        (DIVIDER.replace(".op\n", ""), WRONG),
        (DIVIDER + "\nThat was it.", RIGHT),
        (DIVIDER.replace("R1 in", "The resistor in"), WRONG),
    ],
)
def test_netlists_are_compared_as_circuits(reply: str, verdict: ExpertVerdict) -> None:
    assert judge_netlist(reply, DIVIDER) == verdict


def test_sources_models_and_sweeps_count() -> None:
    text = "* r\nV1 a 0 SIN(0 5 50 0 0)\nD1 a b DX\nR1 b 0 1k\n.model DX D(IS=1n)\n.tran 10u 10m"
    circuit = parse_netlist(text)
    assert circuit.elements[0].values == ("sin", 0.0, 5.0, 50.0)
    assert circuit.analyses == ((".tran", 1e-05, 0.01),)
    assert parse_netlist(text.replace(".tran 10u 10m", ".ac dec 10 1 1meg")).analyses == ((".ac", 1.0, 1e6),)
    with pytest.raises(ValueError, match="model"):
        parse_netlist(text.replace(".model DX", ".model DY"))
    assert judge_netlist(text.replace("D1 a b", "D1 b a"), text) == WRONG
    assert judge_netlist(text.replace("+", "").replace("R1 b 0 1k", "R1 b 0\n+ 1k"), text).right


@pytest.mark.parametrize(
    ("word", "number"),
    [("4.7k", 4700.0), ("1meg", 1e6), ("100nF", 1e-7), ("1M", 1e-3), ("1e5", 1e5), ("2uH", 2e-6), ("-3", -3.0)],
)
def test_numbers_have_the_suffixes_of_spice(word: str, number: float) -> None:
    assert read_number(word) == pytest.approx(number)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("SELECT name FROM people WHERE age > 30;", ALONE),
        ("select p.name from people p where p.age >= 31", RIGHT),
        ("Use this:\n```sql\nSELECT name FROM people WHERE age > 30;\n```", RIGHT),
        ("SELECT name FROM people WHERE age > 40;", WRONG),
        ("SELECT * FROM people WHERE age > 30;", WRONG),
        ("SELECT name FROM person;", WRONG),
        ("DELETE FROM people;", WRONG),
        ("No idea.", WRONG),
    ],
)
def test_queries_are_compared_by_their_rows(reply: str, verdict: ExpertVerdict) -> None:
    assert judge_query(reply, "SELECT name FROM people WHERE age > 30;", PEOPLE) == verdict


def test_order_counts_where_the_reference_has_one_and_changes_are_compared() -> None:
    assert not judge_query("SELECT name FROM people;", "SELECT name FROM people ORDER BY age;", PEOPLE).right
    change = "UPDATE people SET age = age + 1 WHERE name = 'bob';"
    assert judge_query("UPDATE people SET age = 42 WHERE name = 'bob';", change, PEOPLE) == ALONE
    assert not judge_query("UPDATE people SET age = age + 1;", change, PEOPLE).right


@pytest.mark.parametrize(
    "query",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n;",
        "ATTACH DATABASE 'x.db' AS x;",
        "PRAGMA user_version;",
    ],
)
def test_queries_that_never_end_or_reach_out_are_stopped(query: str) -> None:
    with pytest.raises(sqlite3.Error):
        run_query(PEOPLE, query)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("sort -u letters.txt\n# -u drops repeats.", ALONE),
        ("sort letters.txt | uniq", RIGHT),
        ("Run `sort -u letters.txt` for that.", RIGHT),
        ("```bash\nsort letters.txt | uniq\n```\nIt sorts.", RIGHT),
        ("sort letters.txt", WRONG),
        ("sort -u letters.txt; rm letters.txt", WRONG),
        ("cat /etc/passwd", WRONG),
        ("while true; do true; done", WRONG),
        ("I cannot.", WRONG),
    ],
)
def test_commands_are_compared_by_what_they_print_and_leave(
    reply: str, verdict: ExpertVerdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.bench.experts.commands.SECONDS", 1.0 if "while" in reply else 20.0)
    assert judge_command(reply, "sort -u letters.txt\n# x", FOLDER) == verdict


def test_rights_and_links_are_seen() -> None:
    assert run_command(FOLDER, "chmod 600 letters.txt").files["letters.txt"] == ("b\na\nb\n", 0o600)
    assert run_command(FOLDER, "ln -s letters.txt l").files["l"] == ("-> letters.txt", 0)


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /", "rm -rf /home", "cat '/etc/passwd'", "cat</etc/passwd", "cd .. && rm x", "ls ../", "find / -name x",
        "kill -9 -1", "pkill sh", 'rm -rf "$HOME/../x"', "rm -rf /e*", "echo $(cat /home/x)", "sudo ls", "exec sh",
        "cat //etc/passwd", "cat ~root/x", "grep -r x /", "echo ${PWD%/*}", "eval ls", "echo > /dev/tcp/1.1.1.1/80",
    ],
)  # fmt: skip
def test_commands_that_reach_out_of_their_folder_are_not_run(command: str) -> None:
    assert not is_contained(command)
    with pytest.raises(ValueError, match="reach out"):
        run_command(FOLDER, command)


@pytest.mark.parametrize(
    "command",
    ["awk '/ERROR/ { print $2 / $3 }' x", "sed 's/^/- /' x", "ls 2> /dev/null", "find . -exec wc -l {} +", "ls a/b"],
)
def test_harmless_commands_are_run(command: str) -> None:
    assert is_contained(command)


def test_commands_see_no_program_but_the_named_ones() -> None:
    assert run_command(FOLDER, "python3 -c 1").code == 127
    assert run_command(FOLDER, "env").output.count("=") <= 8


@pytest.mark.parametrize(
    ("reply", "facts", "verdict"),
    [
        ("Elle a lu un roman.", (), ALONE),
        ("La phrase devient : « elle a lu un roman ».", (), RIGHT),
        ("Elle lit un roman.", (), WRONG),
        ("The answer is: Elle a lu un roman. You can use it in the text.", (), WRONG),
        ("C'est Victor Hugo.", ("Hugo",), ALONE),
        ("C'est Zola.", ("Hugo",), WRONG),
    ],
)
def test_french_replies_hold_the_sentence_or_the_facts(
    reply: str, facts: tuple[str, ...], verdict: ExpertVerdict
) -> None:
    assert judge_french(reply, "Elle a lu un roman.", facts) == verdict


def test_accents_count_in_french() -> None:
    assert judge_french("L\u2019été est arrivé.", "L'été est arrivé.", ()).right
    assert not judge_french("L'ete est arrive.", "L'été est arrivé.", ()).right
    assert is_french("Mercredi vient après mardi.")
    assert not is_french("The day after is Wednesday.")
