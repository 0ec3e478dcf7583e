//! The results of the suite.

use std::fmt::Write;

use serde::Serialize;

/// Whether an agent fulfils a clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The agent fulfils it.
    Pass,
    /// The agent violates it.
    Fail,
    /// The agent does not offer the feature of the clause, or this run could not test it.
    NotOffered,
}

/// The verdict on one clause.
#[derive(Debug, Clone, Serialize)]
pub struct ClauseReport {
    /// The identifier, as in the specification.
    pub id: &'static str,
    /// The requirement of the clause, in short.
    pub summary: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// The reason of the failure, or why the clause was not tested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The latest lines of a failure: number of the connection, direction (`>` sent, `<` received), line. Bounded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transcript: Vec<String>,
}

/// The verdicts on all clauses of one version.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of the protocol that was tested, with those before it.
    pub version: u32,
    /// The version that the agent reports.
    pub agent: String,
    /// One verdict for each clause, in the order of the specification.
    pub clauses: Vec<ClauseReport>,
}

impl Report {
    /// Returns how many clauses have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.clauses
            .iter()
            .filter(|clause| clause.verdict == verdict)
            .count()
    }

    /// Returns whether no clause is violated.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.count(Verdict::Fail) == 0
    }

    /// Returns the verdicts as a table in Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = "| clause | demand | verdict |\n| --- | --- | --- |\n".to_owned();

        for clause in &self.clauses {
            let verdict = match clause.verdict {
                Verdict::Pass => "pass",
                Verdict::Fail => "fail",
                Verdict::NotOffered => "not offered",
            };
            let _ = writeln!(text, "| `{}` | {} | {verdict} |", clause.id, clause.summary);
        }
        text
    }

    /// Returns the report for people: one line for each clause, with the transcript of a failure below it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();

        for clause in &self.clauses {
            let verdict = match clause.verdict {
                Verdict::Pass => "pass",
                Verdict::Fail => "FAIL",
                Verdict::NotOffered => "not offered",
            };
            let _ = writeln!(text, "{:<10} {verdict:<12} {}", clause.id, clause.summary);
            if let Some(reason) = &clause.reason {
                let _ = writeln!(text, "{:<10} {reason}", "");
            }
            for line in &clause.transcript {
                let _ = writeln!(text, "{:<10} | {line}", "");
            }
        }

        let _ = writeln!(
            text,
            "version {}: {} passed, {} failed, {} not offered",
            self.version,
            self.count(Verdict::Pass),
            self.count(Verdict::Fail),
            self.count(Verdict::NotOffered)
        );
        text
    }
}
