use std::time::Duration;

use fumehood_protocol::{EndedBy, Evidence, StreamSummary};
use serde::{Deserialize, Serialize};

use super::skipped::SkippedFiles;
use super::transfer::Download;
use crate::host::{Accelerator, Isolation};
use crate::network::NetworkOutcome;
use crate::packages::InstalledPackage;

/// Where the VM of a run came from. In JSON: the variant's name in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VmOrigin {
    /// A VM of the pool that had been restored and had run a primer. Only with KVM.
    Hot,
    /// A process that continued from a hot image: a QEMU that had run programs and was saved with its guest.
    HotImage,
    /// A QEMU process that was started for this run, and a template restored into it.
    // In records of earlier versions the process may have waited in a pool.
    #[serde(alias = "standby", alias = "blank")]
    Template,
    /// A boot for this run.
    Boot,
    /// A state saved by [`Sandbox::checkpoint`](crate::Sandbox::checkpoint) or
    /// [`Sandbox::fork`](crate::Sandbox::fork).
    Checkpoint,
}

impl VmOrigin {
    /// Returns the name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::HotImage => "hot_image",
            Self::Template => "template",
            Self::Boot => "boot",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Where the time of a run went. In JSON each field is a number of milliseconds with a resolution of 1 µs, and its
/// name ends with `_ms`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct Timing {
    /// Waiting for capacity on this host.
    #[serde(rename = "queue_ms", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"), schema(value_type = f64))]
    pub queue: Duration,
    /// From the request for a VM until its agent is ready: a boot, a restore, or next to nothing for a hot VM.
    #[serde(rename = "start_ms", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"), schema(value_type = f64))]
    pub start: Duration,
    /// From the agent being ready until the code is sent.
    #[serde(rename = "connect_ms", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"), schema(value_type = f64))]
    pub connect: Duration,
    /// From sending the code until the interpreter is ready, as reported by the guest.
    #[serde(rename = "spawn_ms", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"), schema(value_type = f64))]
    pub spawn: Duration,
    /// From sending the code until the first byte of output; none if there was no output.
    #[serde(rename = "first_output_ms", with = "optional_milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"), schema(value_type = Option<f64>))]
    pub first_output: Option<Duration>,
    /// From sending the code until its end.
    #[serde(rename = "execute_ms", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"), schema(value_type = f64))]
    pub execute: Duration,
    /// Ending the VM.
    #[serde(rename = "teardown_ms", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"), schema(value_type = f64))]
    pub teardown: Duration,
    /// The whole run, with uploads and downloads.
    #[serde(rename = "total_ms", with = "milliseconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"), schema(value_type = f64))]
    pub total: Duration,
}

/// Durations as milliseconds, rounded to microseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)? / 1e3;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}

/// The same for durations that may be missing.
mod optional_milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Milliseconds(#[serde(with = "super::milliseconds")] Duration);

    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(Milliseconds).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let time: Option<Milliseconds> = Option::deserialize(from)?;
        Ok(time.map(|time| time.0))
    }
}

/// How a run ended.
///
/// Its JSON form is the one of `fumehood run --json` and of the HTTP API. `stdout` and `stderr` are not part of it:
/// those name the output itself there. `network` is written and not read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema, utoipa::ToSchema))]
pub struct Outcome {
    /// The exit code of the program; 128 + signal if a signal ended it; 124 on timeout, 130 if cancelled, 137 if out
    /// of memory; none if the VM was lost.
    pub exit_code: Option<i32>,
    /// Why the run ended.
    pub ended_by: EndedBy,
    /// Evidence for that, with CPU time and peak memory.
    pub evidence: Evidence,
    /// What the program wrote to standard output: length and checksum, verified on the way.
    #[serde(skip)]
    pub stdout: StreamSummary,
    /// The same for standard error.
    #[serde(skip)]
    pub stderr: StreamSummary,
    /// Where the VM came from.
    pub source: VmOrigin,
    /// The accelerator that executed the guest's instructions.
    pub accelerator: Accelerator,
    /// The isolation layers around the VM; none if no VM was started.
    pub isolation: Option<Isolation>,
    /// Where the time went.
    pub timing: Timing,
    /// What the guest did on its network; none if it had no network, or that of its sandbox.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<serde_json::Map<String, serde_json::Value>>"),
        schema(value_type = Option<Object>)
    )]
    pub network: Option<NetworkOutcome>,
    /// The packages of the request, with their resolved versions; empty for a run in a sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<InstalledPackage>,
    /// The result of each download, in the order of the request. See [`RunRequest::download`](crate::RunRequest::download).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downloads: Vec<Download>,
    /// The files in uploaded directories that were not copied, with reasons. The program ran without them.
    #[serde(default, skip_serializing_if = "SkippedFiles::is_empty")]
    #[cfg_attr(feature = "schema", schema(required = false))]
    pub skipped_uploads: SkippedFiles,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::IsolationLayer;

    fn outcome() -> Outcome {
        Outcome {
            exit_code: Some(0),
            ended_by: EndedBy::Exited,
            evidence: Evidence {
                cpu_time_us: Some(12),
                ..Evidence::default()
            },
            stdout: StreamSummary::default(),
            stderr: StreamSummary::default(),
            source: VmOrigin::HotImage,
            accelerator: Accelerator::Tcg,
            isolation: Some(Isolation::Full),
            timing: Timing {
                queue: Duration::from_nanos(1_234_567),
                first_output: Some(Duration::from_millis(7)),
                ..Timing::default()
            },
            network: None,
            packages: Vec::new(),
            downloads: Vec::new(),
            skipped_uploads: SkippedFiles::default(),
        }
    }

    #[test]
    fn the_json_form_is_stable() {
        let expected = json!({
            "exit_code": 0,
            "ended_by": "exited",
            "evidence": { "cpu_time_us": 12 },
            "source": "hot_image",
            "accelerator": "tcg",
            "isolation": "full",

            "timing": {
                "queue_ms": 1.235, "start_ms": 0.0, "connect_ms": 0.0, "spawn_ms": 0.0, "first_output_ms": 7.0,
                "execute_ms": 0.0, "teardown_ms": 0.0, "total_ms": 0.0,
            },
        });

        assert_eq!(serde_json::to_value(outcome()).unwrap(), expected);
    }

    #[test]
    fn optional_parts_have_their_own_forms() {
        let value = serde_json::to_value(Outcome {
            exit_code: None,
            isolation: Some(Isolation::Reduced(vec![
                IsolationLayer::User,
                IsolationLayer::Cgroup,
            ])),
            timing: Timing::default(),
            network: Some(NetworkOutcome {
                urls: vec!["http://127.0.0.1:1".into()],
                ..NetworkOutcome::default()
            }),
            ..outcome()
        })
        .unwrap();

        assert_eq!(value["exit_code"], json!(null));
        assert_eq!(value["isolation"], json!({ "reduced": ["user", "cgroup"] }));
        assert_eq!(value["timing"]["first_output_ms"], json!(null));
        assert_eq!(value["network"]["urls"], json!(["http://127.0.0.1:1"]));
        assert_eq!(value["network"]["connections"], json!(0));
    }

    #[test]
    fn an_outcome_is_read_back() {
        let text = serde_json::to_string(&outcome()).unwrap();
        let read: Outcome = serde_json::from_str(&text).unwrap();
        assert_eq!(read.timing.queue, Duration::from_micros(1235));
        let rounded = Outcome {
            timing: read.timing,
            ..outcome()
        };

        assert_eq!(read, rounded);
    }

    #[test]
    fn names_of_earlier_versions_are_read() {
        for name in ["standby", "blank"] {
            let origin: VmOrigin = serde_json::from_value(json!(name)).unwrap();
            assert_eq!(origin, VmOrigin::Template);
        }
        let retry: crate::Retry = serde_json::from_value(json!("useless")).unwrap();
        assert_eq!(retry, crate::Retry::Never);
    }

    #[test]
    fn names_in_json_are_those_of_as_str() {
        for origin in [
            VmOrigin::Hot,
            VmOrigin::HotImage,
            VmOrigin::Template,
            VmOrigin::Boot,
            VmOrigin::Checkpoint,
        ] {
            assert_eq!(
                serde_json::to_value(origin).unwrap(),
                json!(origin.as_str())
            );
        }
    }
}
