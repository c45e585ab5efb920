"""What each command is used for: the words after ``selflearn``, and what they do.

Help tells them first, ``docs/cli.md`` shows them, and a test holds every one to the options that its command has.
"""

from __future__ import annotations

from typing import Final

EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "serve": (
        ("serve", "the embedded model at http://127.0.0.1:8000"),
        ("serve --model ./my-model --port 8080", "a model of your own"),
        ("--state /var/lib/selflearn serve --host 0.0.0.0", "for a team; needs keys"),
    ),
    "status": (("status", "everything that matters"), ("status --json | jq .served.version", "for a script")),
    "chat": (
        ("chat", "talk; /good, /bad and /fix TEXT teach"),
        ("chat --version 7", "with one version"),
        ("chat < questions.txt", "one question per line"),
    ),
    "doctor": (("doctor", "what is wrong here, and what to do"), ("doctor --json", "for a script")),
    "learn": (("learn now --wait", "one update, to its verdict"), ("learn status", "what runs, or why nothing does")),
    "learn now": (
        ("learn now", "start an update"),
        ("learn now --wait", "wait for it; exit code 0 promoted, 3 not"),
        ("learn now --wait --dry-run", "judge it, change nothing in service"),
    ),
    "learn status": (("learn status", "progress, or why nothing runs"),),
    "learn pause": (("learn pause", "no updates by themselves for now"),),
    "learn resume": (("learn resume", "updates start again"),),
    "learn cancel": (("learn cancel", "stop the running update"),),
    "feedback": (("feedback list --limit 5", "the newest"),),
    "feedback add": (
        ("feedback add chatcmpl-12ab --good", "the answer was right"),
        ("feedback add chatcmpl-12ab --correct 'Port 8000.'", "this is the right answer"),
        ("feedback add --conversation ticket-7 --reward 0.5", "reward a whole conversation"),
    ),
    "feedback list": (("feedback list --limit 5", "the newest five"),),
    "data": (("data stats", "how much there is"), ("data quarantine", "what is kept from training, and why")),
    "data list": (
        ("data list --state fresh", "what the next update may train on"),
        ("data list --contains password --limit 5", "what has a word"),
    ),
    "data interactions": (("data interactions --source ann --limit 5", "what came with ann's key"),),
    "data show": (("data show 12", "an example"), ("data show chatcmpl-12ab", "a question and its answer")),
    "data sources": (("data sources", "who brought what"),),
    "data quarantine": (
        ("data quarantine", "what is there, and why"),
        ("data quarantine 12 13", "keep two examples from training"),
        ("data quarantine --source eve --dry-run", "how many came with eve's key"),
    ),
    "data release": (("data release 12 --reason 'checked by hand'", "let it train"),),
    "data certificates": (("data certificates", "all that was forgotten"),),
    "data certificate": (
        ("data certificate 1", "what was forgotten, and from where"),
        ("data certificate 1 --verify", "whether that still holds"),
    ),
    "data forget": (
        ("data forget --user ann --dry-run", "what would go"),
        ("data forget --interaction chatcmpl-12ab --yes", "without a question"),
    ),
    "data retain": (("data retain --dry-run", "what is too old"),),
    "data vacuum": (("data vacuum", "give free space back; the daemon must be stopped"),),
    "data stats": (("data stats", "counts by kind and state"),),
    "data import": (
        ("data import support.jsonl", "rows of chat, completion, preference …"),
        ("data import - --name manual --format chat < rows.jsonl", "from a pipe"),
    ),
    "data export": (
        ("data export examples.jsonl", "all that may train"),
        ("data export --state trained | wc -l", "to standard output"),
    ),
    "versions": (("versions list", "all of them"), ("versions verify", "whether they are intact")),
    "versions list": (("versions list", "the served one is marked"),),
    "versions show": (("versions show 7", "its manifest and loss curve"), ("versions show 0", "the base model")),
    "versions verify": (("versions verify", "every file of every version"), ("versions verify 7", "those of one")),
    "versions reproduce": (("versions reproduce 7", "train it again, compare byte for byte"),),
    "versions prune": (("versions prune --dry-run", "what is neither needed nor young"),),
    "versions export": (
        ("versions export 7 --to ./v7", "the adapter, as PEFT has it"),
        ("versions export 7 --to ./v7 --gguf", "for llama.cpp"),
    ),
    "versions compact": (("versions compact 7 --to ./small", "in fewer rows"),),
    "versions merge": (("versions merge 5 7 --to ./both", "two versions in one adapter"),),
    "versions diff": (("versions diff 6 7", "what they answer otherwise"),),
    "why": (
        ("why 7", "what version 7 learned, from whom, and how it was judged"),
        ("why chatcmpl-12ab", "what an answer was taught by, and what it taught"),
    ),
    "evaluate": (
        ("evaluate 7 --compare 6", "two versions on the reserve"),
        ("evaluate 7 --data questions.jsonl", "on questions of yours"),
    ),
    "distil": (("distil 7 --to ./student --student ./small-model", "what it knows, in a smaller model"),),
    "rollout": (("rollout status", "what is served"), ("rollout history", "what was")),
    "rollout history": (("rollout history --limit 5", "the newest changes"),),
    "rollout status": (("rollout status", "served, canary, pins"),),
    "rollout canary": (
        ("rollout canary 7 --share 0.1", "a tenth of the conversations"),
        ("rollout canary 7 --share 0.1 --for 2h", "for two hours"),
    ),
    "rollout alarms": (("rollout alarms --limit 5", "what the watchdog saw"),),
    "rollout promote": (
        ("rollout promote", "the canary, to everyone"),
        ("rollout promote 7 --force --reason 'checked by hand'", "against the gate"),
    ),
    "rollout pin": (("rollout pin 7 --hold", "keep it, and keep it in service"),),
    "rollout unpin": (("rollout unpin 7", "let it go again"),),
    "rollout abort": (("rollout abort", "end the canary"),),
    "rollout undo": (("rollout undo", "back to the one before"), ("rollout undo --to 6", "back to version 6")),
    "rollback": (
        ("rollback", "back to the version served before"),
        ("rollback 6", "back to version 6; 0 is the base model"),
        ("rollback --dry-run", "say what would happen"),
    ),
    "audit": (("audit list", "who did what"), ("audit verify", "whether the log is whole")),
    "audit list": (("audit list --limit 5", "the newest"),),
    "audit verify": (("audit verify", "the chain of digests"),),
    "backtest": (
        ("backtest --recorded --judge-only --set judging.max_anchor_rise=0.02", "past updates under a stricter limit"),
        ("backtest --set learning.rank=8 --last 3", "the last three updates, trained with another rank"),
    ),
    "backup": (("backup", "into the state directory"), ("backup /mnt/copy", "into a new directory")),
    "restore": (("restore /mnt/copy", "the daemon must be stopped"), ("restore /mnt/copy --yes", "without a question")),
    "models": (("models pull", "get the model of the settings"), ("models list", "those that are here")),
    "models pull": (
        ("models pull", "the embedded model, or serving.model"),
        ("models pull HuggingFaceTB/SmolLM2-360M-Instruct", "one from the hub"),
    ),
    "models list": (("models list", "names, sizes, hashes"),),
    "config": (("config show", "what is in force"), ("config check", "whether it is right")),
    "config show": (("config show", "every setting and its value"),),
    "config check": (("--config selflearn.toml config check", "exit code 2 if it is wrong"),),
    "keys": (("keys list", "who may use the daemon"),),
    "keys add": (("keys add ann --role teacher", "ann may ask and correct"),),
    "keys list": (("keys list", "names and roles"),),
    "keys remove": (("keys remove ann", "ann is let in no more"),),
    "bench": (
        ("bench", "the running daemon, with 1 and 8 clients"),
        ("bench serve --url http://127.0.0.1:8080 --clients 1,32", "any server of the OpenAI API"),
    ),
    "bench serve": (
        ("bench serve", "1, 8 and 32 clients"),
        ("bench serve --clients 8 --tokens 128 --requests 16", "a longer measurement"),
    ),
    "demo": (("demo", "teach, measure, refuse poison, roll back; in a state of its own"),),
}
