"""Each command in a process that reads its modules itself, as a user's does: the other tests fork one that has."""

from __future__ import annotations

LAST_WORDS = "print('trained')\nopen(__import__('os').environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('whole')\n"


def test_each_command_reads_what_it_needs(place, gate_code):
    place.forks = False
    script = place.script(gate_code + LAST_WORDS)
    words = ("-w", "1", "--name", "own", "--env", f"GATE={place.gate}", "--detach")
    assert place.tf("check", *place.target, script).code == 0
    assert place.tf("render", script, "--image", "an/image:1").code == 0
    assert place.run(script, *words).out.strip() == "own"
    reading = place.start("logs", *place.target, "-f", "own")
    reading.prints("at the gate")
    assert place.of("list", "-o", "json").json[0]["job"] == "own"
    assert place.of("status", "own", "-o", "json").json["phase"] == "running"
    assert place.of("top", "own", "-o", "json").code == 0
    attached = place.start("attach", *place.target, "own")
    attached.prints("at the gate")
    place.open_gate("own")
    assert attached.done().code == 0
    assert "trained" in reading.done().out
    assert place.of("wait", "own").code == 0
    assert place.of("fetch", "own", "--out", place.runs, "--keep").code == 0
    assert (place.runs / "own/files/worker-0/model").read_text() == "whole"
    assert place.tf("report", "own").code == 0
    assert place.tf("compare", "own", "own").code == 0
    assert place.of("delete", "own").code == 0
    assert place.leftovers() == []
    for verb, *words in (("run", *place.target, script, "-w", "1"), ("rerun", "followed")):
        name = "followed" if verb == "run" else "again"
        running = place.start(verb, *words, "--name", name, "--env", f"GATE={place.gate}")
        running.prints("at the gate")
        place.open_gate(name)
        assert running.done().code == 0
    assert place.leftovers() == []
