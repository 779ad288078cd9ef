# ruff: noqa: PT012 -- signals are raised within blocks
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from agile_gym.interruption import STOP_SIGNALS, hold, stop_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
EACH = pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: signal.Signals(number).name)


def handlers():
    return [signal.getsignal(number) for number in STOP_SIGNALS]


@EACH
def test_the_first_signal_interrupts_and_handlers_are_given_back(number):
    before = handlers()
    with pytest.raises(KeyboardInterrupt), stop_signals() as stops:
        assert handlers() != before
        signal.raise_signal(number)
    assert stops.status == 128 + number
    assert handlers() == before


@EACH
def test_a_held_signal_waits_for_the_end_of_the_block(number):
    done = []
    with stop_signals() as stops:
        with pytest.raises(KeyboardInterrupt):
            with stops.hold():
                with hold():
                    signal.raise_signal(number)
                done.append("the inner block ends nothing")
            done.append("not reached")
        assert stops.received == number
        with hold():
            done.append("cleaning up")  # a signal that was felt already does not come again
    assert done == ["the inner block ends nothing", "cleaning up"]


def test_a_second_signal_is_not_held():
    with pytest.raises(KeyboardInterrupt), stop_signals() as stops, hold():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the second one raises where it comes")
    assert (stops.status, stops.repeated) == (130, True)


def test_an_exception_of_a_held_block_is_not_replaced():
    with pytest.raises(ZeroDivisionError), stop_signals(), hold():
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError


def test_an_interruption_that_a_callback_swallowed_is_not_lost():
    class Swallowing:
        def __del__(self):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)

    with stop_signals() as stops:
        Swallowing()
        with pytest.raises(KeyboardInterrupt):
            stops.check()


def test_the_notice_of_a_held_signal_may_take_a_lock_that_the_code_holds():
    lock, told = threading.Lock(), threading.Event()

    def tell():
        with lock:
            told.set()

    with stop_signals() as stops, pytest.raises(KeyboardInterrupt), hold():
        stops.on_held = tell
        with lock:
            signal.raise_signal(signal.SIGINT)
        assert told.wait(5)


def test_an_enclosing_block_stays_in_charge():
    with stop_signals() as outer:
        with stop_signals() as inner:
            assert inner is outer
        assert handlers() == [outer._handle] * len(STOP_SIGNALS)


def test_handlers_of_the_user_and_ignored_signals_stay():
    def mine(number, frame):
        raise LookupError

    former = signal.signal(signal.SIGTERM, mine), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stops:
            with pytest.raises(LookupError):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
            assert stops.received is None
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, former[0])
        signal.signal(signal.SIGHUP, former[1])


def test_another_thread_leaves_handlers_alone():
    before, seen = handlers(), []

    def work():
        with stop_signals() as stops, hold(), stops.hold():
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


PROGRAM = """
import os, signal, sys, threading, time
from agile_gym import cli

def send(number):
    os.kill(os.getpid(), number)

def command(options):
{body}

cli._list = command
sys.exit(cli.main(["list"]))
"""


def run_command(body, *, before=""):
    """Run a command of this body, and return its exit status and what it wrote to standard error."""
    program = before + PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return result.returncode, result.stderr


@EACH
def test_a_command_ends_with_one_line_and_the_status_of_the_signal(number):
    assert run_command(f"send({int(number)}); time.sleep(60)") == (128 + number, "\nagile-gym: interrupted\n")


@pytest.mark.parametrize("error", ["ImportError('numpy failed to import')", "OSError('no space left')"])
def test_an_error_that_an_interruption_was_turned_into_is_one(error):
    body = f"""
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise {error}
    """
    status, errors = run_command(body)
    assert status == 143
    assert errors.startswith("\nagile-gym: interrupted (")
    assert error.split("'")[1] in errors
    assert errors.count("\n") == 2


@pytest.mark.parametrize("held", ["", "with __import__('agile_gym').interruption.hold():"])
def test_a_second_signal_ends_a_command_at_once(held):
    body = f"""
        threading.Timer(1, send, [signal.SIGINT]).start()
        {held or "if True:"}
            try:
                send(signal.SIGTERM)
            finally:
                time.sleep(60)
    """
    began = time.monotonic()
    assert run_command(body) == (130, "\nagile-gym: ended at once\n")
    assert time.monotonic() - began < 30


def test_a_second_signal_is_quiet_while_python_ends():
    body = """
        import atexit
        atexit.register(lambda: (send(signal.SIGINT), time.sleep(60)))
        send(signal.SIGTERM)
    """
    assert run_command(body) == (130, "\nagile-gym: interrupted\n\nagile-gym: ended at once\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="writes to /dev/full")
def test_a_closed_terminal_ends_a_command_in_order():
    before = "import sys\nsys.stdout = sys.stderr = open('/dev/full', 'w', buffering=1)\n"
    assert run_command("send(signal.SIGHUP)", before=before) == (129, "")


@pytest.mark.slow
def test_a_tiny_model_is_written_whole_or_not_at_all(tmp_path):
    pytest.importorskip("transformers")
    program = textwrap.dedent("""
        import os, sys, transformers
        from agile_gym import cli
        save = transformers.Qwen2_5_VLForConditionalGeneration.save_pretrained
        def saved(model, path):
            os.kill(os.getpid(), 15)
            save(model, path)
        transformers.Qwen2_5_VLForConditionalGeneration.save_pretrained = saved
        sys.exit(cli.main(["tiny", sys.argv[1]]))
    """)
    target = tmp_path / "model"
    command = [sys.executable, "-c", program, str(target)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 143
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] in ([], ["model"])
    assert not target.exists() or {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(target))
