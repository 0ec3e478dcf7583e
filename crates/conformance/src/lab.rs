//! What every check uses: the agent, connections to it, and requests.

use serde_json::{Value, json};

use crate::client::{Check, Connection, Link, Message, Outcome, ensure, not_offered};

/// A sentence of the specification that an agent must fulfil.
#[derive(Debug)]
pub struct Clause {
    /// The identifier: family and number.
    pub id: &'static str,
    /// The lowest version of the protocol that has the clause.
    pub version: u32,
    /// The requirement, in short.
    pub summary: &'static str,
    pub(crate) kind: Kind,
}

/// How a clause is tested.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// By a check that runs beside others.
    Active(fn(&Lab<'_>) -> Check),
    /// By a check that needs the agent for itself.
    Alone(fn(&Lab<'_>) -> Check),
    /// By every response of the whole run.
    Observed,
}

impl Clause {
    pub(crate) const fn new(
        id: &'static str,
        version: u32,
        summary: &'static str,
        check: fn(&Lab<'_>) -> Check,
    ) -> Self {
        Self {
            id,
            version,
            summary,
            kind: Kind::Active(check),
        }
    }

    pub(crate) const fn alone(
        id: &'static str,
        version: u32,
        summary: &'static str,
        check: fn(&Lab<'_>) -> Check,
    ) -> Self {
        Self {
            kind: Kind::Alone(check),
            ..Self::new(id, version, summary, check)
        }
    }

    pub(crate) const fn observed(id: &'static str, version: u32, summary: &'static str) -> Self {
        Self {
            id,
            version,
            summary,
            kind: Kind::Observed,
        }
    }
}

/// The agent under test and its features.
#[derive(Debug, Clone, Default)]
pub(crate) struct Agent {
    /// The version that it reports.
    pub(crate) version: String,
    pub(crate) token: Option<String>,
    /// The features that it offers; none in version 0.
    pub(crate) features: Vec<String>,
    /// Whether it serves a second connection beside a first one.
    pub(crate) serves_several: bool,
    /// Whether packages may be installed.
    pub(crate) packages: bool,
}

/// The features of the specification.
pub(crate) const FEATURES: [&str; 7] = [
    "raw_frames",
    "credit",
    "cancel",
    "contexts",
    "processes",
    "files",
    "refresh",
];

/// How long a second connection may take until it counts as not served.
const SECOND_CONNECTION: std::time::Duration = std::time::Duration::from_secs(3);

/// Asks the agent for its features.
pub(crate) fn greet(link: &Link, token: Option<&str>, version: u32) -> Check<Agent> {
    let mut agent = Agent {
        token: token.map(str::to_owned),
        ..Agent::default()
    };
    let mut first = link.open()?;

    if version == 0 {
        authenticate(&mut first, token)?;
    } else {
        let reply = hello(&mut first, token, version, &FEATURES)?;
        let features = reply.field("features").as_array().into_iter().flatten();
        agent.features = features
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
    }
    let pong = first.ask(&json!({"action": "ping"}))?.expect("pong")?;
    pong.text("version").clone_into(&mut agent.version);

    // The first connection stays open meanwhile.
    let mut second = link.open()?;
    if token.is_some() {
        second.send(&json!({"action": "hello", "protocol": 0, "token": token}))?;
    } else {
        second.line(r#"{"action":"ping"}"#)?;
    }
    agent.serves_several = second.receive_within(SECOND_CONNECTION)?.is_some();

    Ok(agent)
}

/// Sends the token, if there is one, and stays in version 0.
fn authenticate(connection: &mut Connection, token: Option<&str>) -> Check {
    if token.is_some() {
        hello(connection, token, 0, &[])?;
    }
    Ok(())
}

fn hello(
    connection: &mut Connection,
    token: Option<&str>,
    version: u32,
    features: &[&str],
) -> Check<Message> {
    let mut request = json!({"action": "hello", "protocol": version, "features": features});
    if let Some(token) = token {
        request["token"] = token.into();
    }
    let reply = connection.ask(&request)?.expect("hello")?;
    connection.version = version;
    Ok(reply)
}

/// What one check works with.
#[derive(Debug)]
pub(crate) struct Lab<'a> {
    pub(crate) link: Link,
    pub(crate) agent: &'a Agent,
    /// A text that no other check has: for names, keys and files.
    pub(crate) tag: String,
}

impl Lab<'_> {
    /// A connection in version 0.
    pub(crate) fn seed(&self) -> Check<Connection> {
        let mut connection = self.link.open()?;
        authenticate(&mut connection, self.agent.token.as_deref())?;
        Ok(connection)
    }

    /// Another connection in version 0, beside one that is open.
    pub(crate) fn second(&self) -> Check<Connection> {
        self.needs_several()?;
        self.seed()
    }

    /// A connection in version 1 with these features.
    pub(crate) fn hello(&self, features: &[&str]) -> Check<Connection> {
        let mut connection = self.link.open()?;
        let reply = hello(&mut connection, self.agent.token.as_deref(), 1, features)?;
        ensure!(
            reply.number("protocol") == Some(1),
            "version 1 was not agreed: {}",
            reply.show()
        );
        Ok(connection)
    }

    /// A connection in version 1 with these features, if the agent offers them.
    pub(crate) fn with(&self, features: &[&str]) -> Check<Connection> {
        for feature in features {
            self.needs(feature)?;
        }
        self.hello(features)
    }

    pub(crate) fn offers(&self, feature: &str) -> bool {
        self.agent.features.iter().any(|offered| offered == feature)
    }

    pub(crate) fn needs(&self, feature: &str) -> Check {
        if !self.offers(feature) {
            not_offered!("the agent does not offer the feature `{feature}`");
        }
        Ok(())
    }

    pub(crate) fn needs_several(&self) -> Check {
        if !self.agent.serves_several {
            not_offered!("the agent serves one connection at a time");
        }
        Ok(())
    }

    /// An exec of Python without an `op_id`, in version 0, that must succeed.
    pub(crate) fn python(&self, code: &str) -> Check<Outcome> {
        succeed(self.seed()?.run(&python(code))?)
    }

    /// The same for a shell program.
    pub(crate) fn shell(&self, code: &str) -> Check<Outcome> {
        succeed(self.seed()?.run(&shell(code))?)
    }
}

/// Fails unless the operation ended with exit code 0.
pub(crate) fn succeed(outcome: Outcome) -> Check<Outcome> {
    ends_with(outcome, 0)
}

/// Fails unless the operation ended with this exit code.
pub(crate) fn ends_with(outcome: Outcome, exit_code: i64) -> Check<Outcome> {
    ensure!(
        outcome.exit_code() == Some(exit_code),
        "exit code {exit_code} was expected: {}",
        outcome.show()
    );
    Ok(outcome)
}

/// Fails unless the operation ended by an error of this type.
pub(crate) fn ends_with_error(outcome: Outcome, error_type: &str) -> Check<Message> {
    outcome.end.expect_error(error_type)
}

pub(crate) fn exec(language: &str, code: &str) -> Value {
    json!({"action": "exec", "language": language, "code": code, "timeout": 60})
}

/// An exec of Python.
pub(crate) fn python(code: &str) -> Value {
    exec("python", code)
}

/// An exec of the shell, by its name in version 0.
pub(crate) fn shell(code: &str) -> Value {
    exec("raw", code)
}

/// A request with more fields, or with others of the same name.
pub(crate) fn with(mut request: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    request
}
