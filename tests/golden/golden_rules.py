"""What golden models have in common, whoever computes them: lengths, what makes a seed unfit, and
the search for a seed that is fit.

A seed is rejected, and the next tried, when
  - an activation or latent weight comes within 1e-7 of a rounding tie, where the order of a sum
    could change an int8 step, or
  - two best logits of a greedy step are within 1e-6 of each other, or
  - the 64 greedy tokens hold fewer than 20 distinct ones: a model that repeats itself tests little.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

OUT = pathlib.Path(__file__).resolve().parent / "data" / "models"
PROMPT_TOKENS = 24
GREEDY_TOKENS = 64
MIN_DISTINCT = 20
MIN_TIE_DISTANCE = 1e-7
MIN_MARGIN = 1e-6
MAX_TRIES = 200


def why_rejected(last_logits, tokens, watch):
    """Extends `tokens` greedily in place; says what is wrong with this seed, or None.

    `last_logits(tokens)` is the list of logits after the last token; `watch.distance` how close
    any value that was quantised on the way came to a rounding tie.
    """
    for _ in range(GREEDY_TOKENS):
        logits = last_logits(tokens)
        second, best = sorted(range(len(logits)), key=logits.__getitem__)[-2:]
        if logits[best] - logits[second] < MIN_MARGIN:
            return "two logits of a greedy step are too close"
        tokens.append(best)
        made = tokens[PROMPT_TOKENS:]
        if len(made) % 32 == 0 and len(set(made)) < MIN_DISTINCT * len(made) // GREEDY_TOKENS:
            return f"only {len(set(made))} distinct among {len(made)} greedy tokens"
    if watch.distance < MIN_TIE_DISTANCE:
        return f"a value lies {watch.distance:.1e} from a rounding tie"
    return None


def make_all(description, models, make_golden):
    """Makes the models named on the command line (all when none is), each with its first fit seed.

    `make_golden(name, spec, directory, seed)` writes one model and its golden into `directory` and
    returns why the seed was rejected, or None.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="name", help="of MODELS; all when none is given")
    for name in parser.parse_args().names or list(models):
        for seed in range(MAX_TRIES):
            with tempfile.TemporaryDirectory() as scratch:
                directory = pathlib.Path(scratch) / name
                directory.mkdir()
                reason = make_golden(name, models[name], directory, seed)
                if reason:
                    print(f"{name}: seed {seed} rejected: {reason}", file=sys.stderr)
                    continue
                shutil.rmtree(OUT / name, ignore_errors=True)
                shutil.copytree(directory, OUT / name)
                golden = json.loads((OUT / name / "golden.json").read_text())
                print(f"{name}: seed {seed}, {golden['distinct_greedy']} distinct tokens, largest "
                      f"logit {golden['max_abs_logit']:.3g}, closest tie "
                      f"{golden['closest_tie']:.1e}")
                break
        else:
            sys.exit(f"{name}: no seed below {MAX_TRIES} will do")
