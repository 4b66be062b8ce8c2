from pathlib import Path

from training.journal import Journal, Meter, read_journal


def test_records_come_back_and_those_that_a_resumed_run_repeats_are_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    for step in (50, 100, 150):
        journal.write({"step": step, "loss": step / 100})
    journal.cut_after(100)
    journal.write({"step": 150, "loss": 9.0})
    assert [record["loss"] for record in read_journal(tmp_path / "run" / "journal.jsonl")] == [0.5, 1.0, 9.0]


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none.jsonl") == []


def test_the_meter_gives_means_and_starts_anew() -> None:
    meter = Meter()
    meter.add(2.0, 0.5, 8)
    meter.add(4.0, 1.0, 8)
    reading = meter.read()
    assert (reading["loss"], reading["train_top1"]) == (3.0, 75.0)
    assert reading["img_per_s"] > 0
    meter.add(1.0, 0.0, 8)
    assert meter.read()["loss"] == 1.0
