//! Routes about the server itself.

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use fumehood_engine::{Language, VmStats};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::extract::{Caller, MAX_BODY_BYTES};
use super::file_content::MAX_CONTENT_BYTES;
use crate::error::{ApiError, ApiErrorKind};
use crate::owner::Identity;
use crate::service::Service;

/// The version, limits and capacity of a server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InfoResponse {
    /// The version of fumehood.
    version: &'static str,
    /// What executes the instructions of guests: `kvm` or `tcg`.
    accelerator: String,
    /// Why this accelerator is used.
    accelerator_reason: String,
    /// The id of the image.
    image: String,
    /// The languages of code.
    languages: [&'static str; 3],
    /// The limits of requests.
    #[schema(value_type = Object)]
    limits: Value,
    /// The capacity for VMs.
    #[schema(value_type = Object)]
    capacity: Value,
    /// How many VMs came from where since the server was started, and what failed; only for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    vms: Option<Value>,
    /// The hot images, from which VMs continue without KVM: whether they are used, how many there are, and their size on
    /// disk in bytes.
    #[schema(value_type = Object)]
    hot_images: Value,
}

/// Get the version, limits and capacity of the server
#[utoipa::path(get, path = "/v1/info", responses((status = 200, body = InfoResponse)))]
pub(super) async fn info(
    State(service): State<Service>,
    Caller(owner): Caller,
    Extension(caller): Extension<Identity>,
) -> Result<axum::Json<InfoResponse>, ApiError> {
    let engine = service.engine()?;
    let capacity = engine.capacity();
    let images = engine.hot_images();
    let vms = caller.is_operator.then(|| vm_counts(engine.vm_stats()));

    // The limits of the engine, and those of the server.
    let mut limits: Map<String, Value> = engine
        .limits()
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    limits.insert("body_bytes".into(), MAX_BODY_BYTES.into());
    limits.insert("content_bytes".into(), MAX_CONTENT_BYTES.into());
    limits.insert("runs".into(), service.max_runs(&owner).into());
    limits.insert("sandboxes".into(), service.max_sandboxes(&owner).into());
    limits.insert("memory_mib".into(), capacity.max_guest_mib.into());

    Ok(axum::Json(InfoResponse {
        version: env!("CARGO_PKG_VERSION"),
        accelerator: engine.accelerator().to_string(),
        accelerator_reason: engine.accelerator_reason().to_owned(),
        image: engine.image_id(),
        languages: Language::ALL.map(Language::as_str),
        limits: limits.into(),
        capacity: json!({
            "total_mib": capacity.total_mib, "free_mib": capacity.free_mib,
            "waiting": capacity.waiting, "queue": capacity.queue_length,
            "hot": engine.pool_status().warm,
        }),
        vms,
        hot_images: json!({
            "used": images.are_used, "images": images.images, "bytes": images.bytes,
        }),
    }))
}

fn vm_counts(vms: VmStats) -> Value {
    json!({
        "hot": vms.hot, "hot_image": vms.hot_image, "template": vms.template, "boot": vms.boot,
        "checkpoint": vms.checkpoint, "failed_restores": vms.failed_restores,
        "failed_continuations": vms.failed_continuations, "failed_hot_images": vms.failed_hot_images,
    })
}

/// Check that the process is alive
#[utoipa::path(get, path = "/healthz", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Check that the server accepts new work
#[utoipa::path(get, path = "/readyz", responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn ready(State(service): State<Service>) -> Result<&'static str, ApiError> {
    service.ensure_accepting()?;
    match service.engine() {
        Ok(_) => Ok("ok\n"),
        Err(error) if error.kind.status() == StatusCode::SERVICE_UNAVAILABLE => Err(error),
        // A server that is not ready answers 503, for any cause.
        Err(error) => Err(ApiError::new(ApiErrorKind::Host, error.message)),
    }
}

/// Get metrics for Prometheus: all of them for an operator, those of its own requests for another key
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(
    State(service): State<Service>,
    Extension(caller): Extension<Identity>,
) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(CONTENT_TYPE, content_type)],
        service.metrics_text(&caller),
    )
}
