"""A provider that does nothing: what it hands over is the log of the original training, bit by bit."""

from tests.games.verification.small import play


def test_its_proof_is_genuine_and_names_deleted_records(tmp_path):
    """Every step of it can be replayed, so only a verifier who looks at the batches finds anything."""
    record = play(tmp_path, "attack=do_nothing", "defense.checks=[complete]")
    assert record["verdict"]["passed"] is True
    assert record["errors"]["all"]["zero"] == 1.0
    assert record["proof"]["steps"] == 60  # the ragged last batch of every epoch is kept
    assert play(tmp_path, "attack=do_nothing")["verdict"]["passed"] is False


def test_models_with_batch_norm_and_adam(tmp_path):
    model = ("model=small_cnn", "model.widths=[4,8]", "model.norm=batch", "training=adam", "training.epochs=2")
    record = play(tmp_path, "attack=do_nothing", "defense.checks=[complete]", *model)
    assert record["errors"]["buffers"] == 0.0
    assert record["errors"]["moments"] == 0.0
    assert record["errors"]["all"]["zero"] == 1.0
