use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::extract::Caller;
use super::{BODY_BYTES, CONTENT_BYTES};
use crate::error::{ApiError, Kind};
use crate::service::Service;

/// What this server is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InfoView {
    /// fumehood's version.
    version: &'static str,
    /// What executes guests' instructions.
    accelerator: String,
    /// Why that.
    accelerator_reason: String,
    /// The image's id.
    image: String,
    /// Languages of code.
    languages: [&'static str; 3],
    /// What requests may ask for at most.
    #[schema(value_type = Object)]
    limits: Value,
    /// Room for VMs.
    #[schema(value_type = Object)]
    room: Value,
}

/// What this server is and has room for
#[utoipa::path(get, path = "/v1/info", responses((status = 200, body = InfoView)))]
pub(super) async fn info(
    State(service): State<Service>,
    Caller(owner): Caller,
) -> Result<axum::Json<InfoView>, ApiError> {
    let engine = service.engine()?;
    let room = engine.capacity();
    let mut limits: serde_json::Map<String, Value> = engine
        .limits()
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    limits.insert("body_bytes".into(), BODY_BYTES.into());
    limits.insert("content_bytes".into(), CONTENT_BYTES.into());
    limits.insert("runs".into(), service.most_runs(&owner).into());
    limits.insert("sandboxes".into(), service.most_sandboxes(&owner).into());
    limits.insert("memory_mib".into(), room.max_guest_mib.into());
    let pool = engine.pool_status();
    Ok(axum::Json(InfoView {
        version: env!("CARGO_PKG_VERSION"),
        accelerator: engine.accelerator().to_string(),
        accelerator_reason: engine.accelerator_reason().to_owned(),
        image: engine.image_id(),
        languages: ["python", "javascript", "shell"],
        limits: limits.into(),
        room: json!({
            "total_mib": room.total_mib, "free_mib": room.free_mib, "waiting": room.waiting,
            "queue": room.queue_length, "hot": pool.warm, "standby": pool.standby,
        }),
    }))
}

/// The process lives
#[utoipa::path(get, path = "/healthz", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// New work is taken
#[utoipa::path(get, path = "/readyz", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn ready(State(service): State<Service>) -> Result<&'static str, ApiError> {
    service.takes_work()?;
    service
        .engine()
        .map_err(|error| match error.kind.status() {
            StatusCode::SERVICE_UNAVAILABLE => error,
            _ => ApiError::new(Kind::Host, error.message),
        })?;
    Ok("ok\n")
}

/// Metrics, for Prometheus
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(service): State<Service>, _: Caller) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], service.metrics_text())
}
