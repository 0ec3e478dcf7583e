//! The routes, and the layers around them.

use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::idempotency::ChangingMethods;
use super::middleware::{Transport, request_layer};
use super::openapi::{Description, complete, set_max_timeout};
use super::{extract, file_content, files, runs, sandboxes, system};
use crate::error::{ApiError, ApiErrorKind};
use crate::service::Service;

/// Returns the API for callers that connect through this transport.
pub fn app(service: &Service, transport: Transport) -> Router {
    let (router, description) = api_routes().split_for_parts();
    let mut description = complete(description);
    set_max_timeout(&mut description, service.0.settings.max_timeout_s);
    let methods = ChangingMethods::of(&description);
    let description = description.to_json().unwrap_or_default();
    let json = [(CONTENT_TYPE, "application/json")];
    let mcp = crate::mcp::route(service, |body, max_bytes, quota| {
        Box::pin(async move { extract::read_body(body, max_bytes, Some(&quota)).await })
    });

    router
        .route(
            "/openapi.json",
            get(move || async move { (json, description) }),
        )
        .with_state(service.clone())
        .route("/mcp", mcp)
        .fallback(|| async {
            let message = "no such path; /openapi.json lists all paths";
            ApiError::new(ApiErrorKind::NotFound, message)
        })
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::panicked().into_response()
        }))
        .layer(from_fn_with_state(
            (service.clone(), transport),
            request_layer,
        ))
        .layer(Extension(methods))
}

/// Returns the OpenAPI description of the API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    complete(api_routes().split_for_parts().1)
}

fn api_routes() -> OpenApiRouter<Service> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(runs::list, runs::create))
        .routes(routes!(runs::get))
        .routes(routes!(runs::events))
        .routes(routes!(runs::stdin))
        .routes(routes!(runs::signal))
        .routes(routes!(runs::resize))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::detach))
        .routes(routes!(runs::create_in_sandbox))
        .routes(routes!(runs::spawn))
        .routes(routes!(sandboxes::list, sandboxes::create))
        .routes(routes!(
            sandboxes::get,
            sandboxes::set_timeouts,
            sandboxes::end
        ))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(sandboxes::fork))
        .routes(routes!(sandboxes::create_checkpoint))
        .routes(routes!(sandboxes::list_checkpoints))
        .routes(routes!(
            sandboxes::get_checkpoint,
            sandboxes::delete_checkpoint
        ))
        .routes(routes!(sandboxes::list_processes))
        .routes(routes!(sandboxes::close_context))
        .routes(routes!(sandboxes::install))
        .routes(routes!(sandboxes::expose))
        .routes(routes!(sandboxes::events))
        .routes(routes!(file_content::download, file_content::upload))
        .routes(routes!(
            file_content::download_archive,
            file_content::upload_archive
        ))
        .routes(routes!(files::stat))
        .routes(routes!(files::list))
        .routes(routes!(files::make_dir))
        .routes(routes!(files::rename))
        .routes(routes!(files::remove))
        .routes(routes!(sandboxes::list_all))
        .routes(routes!(sandboxes::end_any))
        .routes(routes!(system::info))
        .routes(routes!(system::health))
        .routes(routes!(system::ready))
        .routes(routes!(system::metrics))
}
