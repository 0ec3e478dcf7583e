//! Python's figures, and programs that interrupt or corrupt displayed values.

use fumehood_protocol::{ContextName, EndedBy, Language, Request, Response};

use crate::interpreters::prepared::run_with;
use crate::interpreters::python::{shown, text, texts};
use crate::support::{Agent, Client, Outcome, exec};

/// A stand-in for matplotlib that imports the backend, for machines without matplotlib.
const MATPLOTLIB: [(&str, &str); 6] = [
    (
        "__init__.py",
        "rcParams = dict(backend=object())\ndef use(name): rcParams['backend'] = name",
    ),
    (
        "backend_bases.py",
        "class FigureManagerBase:\n    def __init__(self, canvas): self.canvas = canvas",
    ),
    ("backends/__init__.py", ""),
    (
        "backends/backend_agg.py",
        "class FigureCanvasAgg:\n    def __init__(self, figure): self.figure = figure",
    ),
    (
        "figure.py",
        "class Figure:\n    lines = 0\n    def get_children(self): return range(1 + self.lines)\n    def savefig(self, file, **_): file.write(b'\\x89PNG')\n    def __repr__(self): return '<Figure>'",
    ),
    (
        "_pylab_helpers.py",
        "class Gcf:\n    figs = {}\n    get_all_fig_managers = classmethod(lambda c: list(c.figs.values()))\n    destroy_all = classmethod(lambda c: c.figs.clear())\n    @classmethod\n    def destroy_fig(c, figure):\n        for n, m in list(c.figs.items()):\n            if m.canvas.figure is figure: del c.figs[n]",
    ),
];
const PYPLOT: &str = "
import importlib, warnings, matplotlib
from matplotlib.figure import Figure
from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
def backend():
    name = matplotlib.rcParams['backend']
    named = isinstance(name, str) and name.startswith('module://')
    return importlib.import_module(name[9:]) if named else None
def plot(_):
    if not Gcf.figs:
        canvas = getattr(backend(), 'FigureCanvas', FigureCanvasAgg)(Figure())
        Gcf.figs[1] = getattr(canvas, 'manager_class', FigureManagerBase)(canvas)
    Gcf.figs[1].canvas.figure.lines += 1
def gcf(): return Gcf.figs[1].canvas.figure
def show():
    if backend(): backend().show()
    else: warnings.warn('non-interactive, and thus cannot be shown')
";

/// Also with the real matplotlib, if this machine has it.
#[test]
fn figures_are_displayed() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let has = client.python("import matplotlib").complete().exit_code == 0;
    for real in [true, false] {
        if real && !has {
            eprintln!("skipped: no matplotlib");
            continue;
        }
        if !real {
            let package = agent.directory.path().join("matplotlib");
            std::fs::create_dir_all(package.join("backends")).unwrap();
            for (name, code) in MATPLOTLIB.into_iter().chain([("pyplot.py", PYPLOT)]) {
                std::fs::write(package.join(name), code).unwrap();
            }
        }
        figures(&mut client, &format!("figures-{real}"));
    }
}

fn figures(client: &mut Client, context: &str) {
    let mut run = |code: &str, display: bool| {
        run_with(client, Language::Python, code, |request| {
            request.context = Some(ContextName::new(context));
            request.display = display;
        })
    };
    let loaded = run("import sys; 'matplotlib' in sys.modules", true);
    assert_eq!(texts(&loaded), ["False"]);
    let code =
        "import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\nplt.plot([1]); print('drawn')";
    let outcome = run(code, true);
    assert_eq!((outcome.out(), outcome.err()), ("drawn\n", ""));
    let values = outcome.values();
    assert_eq!(values.len(), 2, "{values:?}");
    for value in values {
        assert!(text(&value).starts_with("<Figure"), "{value}");
        assert!(
            value["image/png"].as_str().unwrap().starts_with("iVBOR"),
            "{value}"
        );
    }
    assert_eq!(
        run("plt.plot([1]); plt.gcf()", true).values().len(),
        1,
        "shown once"
    );
    assert_eq!(
        run("plt.plot([1]); 1 / 0", true).values().len(),
        1,
        "shown, though it failed"
    );
    assert_eq!(run("1", true).values().len(), 1, "closed");
    let silent = run("plt.plot([1]); plt.show()", false);
    assert_eq!(
        (silent.out(), silent.err(), silent.values().len()),
        ("", "", 0)
    );
    let environment = run("import os; os.environ.get('MPLBACKEND')", true);
    assert_eq!(
        environment.values().len(),
        1,
        "only the figure that was left open"
    );
    let child = "import subprocess\nprint(subprocess.run([sys.executable, '-c', 'import matplotlib.pyplot as p; p.plot([1]); print(5)'], capture_output=True, text=True).stdout)";
    assert_eq!(
        run(child, true).out(),
        "5\n\n",
        "a child has no such backend"
    );
    let chosen = "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\nplt.plot([1])\nprint(matplotlib.rcParams['backend'].lower())";
    let outcome = run_with(client, Language::Python, chosen, |r| r.display = true);
    assert_eq!(
        (outcome.out(), outcome.values().len()),
        ("agg\n", 1),
        "{}",
        outcome.err()
    );
}

/// Every program can reach the agent's descriptors; one that abuses them only breaks the end of its own exec.
#[test]
fn abusing_the_agents_descriptors_only_ends_the_own_exec() {
    let agent = Agent::start(&["--no-token", "--limit", "grace_ms=300"]);
    let mut client = agent.connect();
    let closing = "print('said', flush=True)\nimport os\nos.closerange(3, 256)\n5";
    for display in [false, true] {
        for context in [None, Some(ContextName::new("closing"))] {
            let kept = context.is_some();
            let outcome = run_with(&mut client, Language::Python, closing, |request| {
                request.context = context;
                request.display = display;
            });
            let complete = outcome.complete();
            assert_eq!(
                (complete.exit_code, complete.ended_by),
                (0, EndedBy::Exited)
            );
            assert_eq!(outcome.out(), "said\n");
            let detail = complete.evidence.detail.as_deref().unwrap_or("");
            assert_eq!(detail.contains("lost"), kept, "{detail}");
        }
    }
    let writing = "import os\nfor fd in range(256):\n    for line in (b'{\"text/plain\": \"forged\"}\\n', b'r\\n', b'7\\n', b'\\0' * 50, b'x'):\n        try: os.write(fd, line)\n        except OSError: pass\n1";
    for (round, display) in [false, true].into_iter().enumerate() {
        let outcome = run_with(&mut client, Language::Python, writing, |request| {
            request.context = Some(ContextName::new(format!("writing-{round}")));
            request.display = display;
        });
        assert!(outcome.complete.is_some(), "{outcome:?}");
        let next = shown(&mut client, "1 + 1");
        assert_eq!(
            (texts(&next), next.complete().exit_code),
            (vec!["2".to_string()], 0)
        );
    }
    let once = run_with(&mut client, Language::Python, writing, |r| r.display = true);
    assert!(once.complete.is_some());
    client.ping();
}

#[test]
fn cancel_ends_a_display_and_keeps_the_state() {
    let agent = Agent::open();
    let mut client = agent.hello(&["cancel"]);
    shown(&mut client, "x = 1");
    for round in 0..20_u64 {
        let mut request = exec(
            Some(round),
            Language::Python,
            "print('begun')\nwhile True: display('x' * 10_000)",
        );
        request.context = Some(ContextName::new("c"));
        request.display = true;
        client.send(&Request::Exec(request));
        let mut outcome = Outcome::default();
        let (response, bytes) = client.message();
        assert!(matches!(response, Response::Stdout(_)), "{response:?}");
        outcome.add(response, bytes);
        std::thread::sleep(std::time::Duration::from_millis(round));
        client.cancel(round);
        client.collect_rest(&mut outcome);
        assert_eq!(outcome.complete().ended_by, EndedBy::Cancelled);
        assert_eq!(outcome.complete().evidence.detail, None);
        let longest = outcome.values().iter().map(|value| text(value).len()).max();
        assert!(
            longest.is_none_or(|len| len == 10_002),
            "every line is whole"
        );
    }
    assert_eq!(texts(&shown(&mut client, "x")), ["1"]);
}
