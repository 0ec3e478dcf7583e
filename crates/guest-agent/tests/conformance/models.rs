//! Models of version 0: the agent accepts what they accept, and its responses are valid.

use std::process::Command;

use crate::agent::Agent;

/// Needs a Python with pydantic and hypothesis: that of the SDK's tests, which `cargo xtask test` prepares.
#[test]
fn requests_of_the_models_are_accepted() {
    let Some(python) = std::env::var_os("FUMEHOOD_MCP_PYTHON") else {
        eprintln!("skipped: FUMEHOOD_MCP_PYTHON is not set");
        return;
    };

    let agent = Agent::start(&["--no-token"]);
    let address = agent.address.to_string();
    let (host, port) = address
        .trim_start_matches("tcp://")
        .rsplit_once(':')
        .unwrap();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/reference-agent/models.py"
    );
    let output = Command::new(python)
        .args([script, host, port])
        .output()
        .unwrap();

    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && output.stdout == b"OK\n",
        "{errors}"
    );
}
