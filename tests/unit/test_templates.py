"""Templates of the user's own, by --template-dir."""

import pytest

from tfspawner.backends.kubernetes.manifests import render
from tfspawner.errors import ConfigurationError


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}{{ (''|attr('__class__')).__mro__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ labels.update({'a': 'b'}) }}",
        "{% include '/etc/hostname' %}",
        "{% include '../train.py' %}",
    ],
)
def test_a_template_cannot_reach_what_is_not_its_own(text, make_fixed_plan, tmp_path):
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "service.yaml").write_text(f"kind: Service\nmetadata: {{name: j}}\n# {text}")
    with pytest.raises(ConfigurationError, match=r"template service\.yaml"):
        render(make_fixed_plan("j", template_dir=folder))


def test_one_template_of_the_users_leaves_the_others(make_fixed_plan, tmp_path):
    (tmp_path / "templates").mkdir()
    mine = "apiVersion: v1\nkind: Service\nmetadata: {name: {{ job | tojson }}, annotations: {mine: yes-it-is}}\n"
    (tmp_path / "templates/service.yaml").write_text(mine)
    plain, changed = render(make_fixed_plan("j")), render(make_fixed_plan("j", template_dir=tmp_path / "templates"))
    different = [one["kind"] for one, other in zip(plain, changed, strict=True) if one != other]
    assert different == ["Service"]


@pytest.mark.parametrize(
    "text",
    [
        "kind: A\n---\nkind: B", "[1]", "", "kind: Service", "kind: Service\nmetadata: [name]", "a: b: c", "{{ nothing }}", "{{ job",
        "{{ job | no }}", "{{ 1 / 0 }}", "{{ job + 1 }}", "{{ range(10 ** 9) }}", "{{ 'x'.index('y') }}", "date: 2024-13-45", "\udcff",
    ],
)  # fmt: skip
def test_a_template_that_gives_no_manifest_is_named(text, make_fixed_plan, tmp_path):
    (tmp_path / "service.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError, match=r"template service\.yaml"):
        render(make_fixed_plan("j", template_dir=tmp_path))


@pytest.mark.parametrize("values", [{"queue": "q"}, {"pod_file": "pod.yaml"}])
def test_a_job_template_that_lacks_what_an_option_needs_is_named(values, make_fixed_plan, tmp_path):
    (tmp_path / "pod.yaml").write_text("kind: Pod\nspec: {containers: [{name: a}]}")
    (tmp_path / "job.yaml").write_text("kind: Job\nmetadata: {name: j}")
    values = {key: tmp_path / value if key == "pod_file" else value for key, value in values.items()}
    with pytest.raises(ConfigurationError, match=r"template job\.yaml"):
        render(make_fixed_plan("j", template_dir=tmp_path, **values))
