//! The API over HTTP.

mod file_content;
mod idempotency;
pub(crate) mod listeners;
mod middleware;
mod negotiation;
mod extract;
mod files;
mod sse;
mod system;
mod runs;
mod sandboxes;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, Schema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::{ApiError, ErrorBody, Kind};
use crate::service::Service;

/// By which way callers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A Unix socket that lets in nobody but this user: callers are [`Owner::local`](crate::Owner::local).
    Local,
    /// TCP: callers have keys.
    Keyed,
}

/// Bytes of a JSON body or of input for a program, at most: code of 2 MiB with every byte escaped is more than any
/// other request, and fits.
pub(crate) const BODY_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of a file's content, at most.
pub(crate) const CONTENT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "fumehood",
        description = "Runs untrusted code in fresh microVMs."
    ),
    components(schemas(ErrorBody))
)]
struct Description;

/// The API for callers who come in by this door.
pub fn app(service: &Service, door: Door) -> Router {
    let (router, description) = routes().split_for_parts();
    let text = described(description).to_json().unwrap_or_default();
    let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
    router
        .route(
            "/openapi.json",
            axum::routing::get(move || async move { (json, text) }),
        )
        .with_state(service.clone())
        .route(
            "/mcp",
            crate::mcp::http(service, |body, most| Box::pin(extract::whole(body, most))),
        )
        .fallback(|| async {
            ApiError::new(
                Kind::NotFound,
                "there is nothing at this path; see /openapi.json",
            )
        })
        .layer(CatchPanicLayer::custom(|_| {
            let message = "a fault of the server's own; its log says more under this request's id";
            ApiError::new(Kind::Internal, message).into_response()
        }))
        .layer(from_fn_with_state(
            (service.clone(), door),
            middleware::front,
        ))
}

/// The description of the API for machines.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    described(routes().split_for_parts().1)
}

fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(runs::list, runs::create))
        .routes(routes!(runs::get))
        .routes(routes!(runs::events))
        .routes(routes!(runs::stdin))
        .routes(routes!(runs::signal))
        .routes(routes!(runs::resize))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::detach))
        .routes(routes!(runs::create_within))
        .routes(routes!(runs::spawn))
        .routes(routes!(sandboxes::list, sandboxes::create))
        .routes(routes!(sandboxes::get, sandboxes::times, sandboxes::end))
        .routes(routes!(sandboxes::fork))
        .routes(routes!(sandboxes::save))
        .routes(routes!(sandboxes::saved))
        .routes(routes!(sandboxes::forget))
        .routes(routes!(sandboxes::processes))
        .routes(routes!(sandboxes::close_context))
        .routes(routes!(sandboxes::install))
        .routes(routes!(sandboxes::expose))
        .routes(routes!(sandboxes::events))
        .routes(routes!(file_content::download, file_content::upload))
        .routes(routes!(files::stat))
        .routes(routes!(files::list))
        .routes(routes!(files::make_dir))
        .routes(routes!(files::rename))
        .routes(routes!(files::remove))
        .routes(routes!(system::info))
        .routes(routes!(system::health))
        .routes(routes!(system::ready))
        .routes(routes!(system::metrics))
}

/// What is the same of all operations: keys, and errors of any status.
fn described(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    narrow_run_bodies(&mut api);
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(scheme));
    let error = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ErrorBody")))
        .build();
    let error = ResponseBuilder::new()
        .description("An error")
        .content("application/json", error)
        .build();
    for (path, item) in &mut api.paths.paths {
        let words: Vec<&str> = path
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty() && *word != "v1")
            .collect();
        let name = words.join("_");
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("delete", &mut item.delete),
            ("patch", &mut item.patch),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            operation.operation_id = Some(format!("{method}_{name}"));
            let may_be_empty = [
                "patch_sandboxes_id",
                "post_sandboxes",
                "post_sandboxes_id_fork",
            ];
            if let Some(RefOr::T(body)) = &mut operation.request_body
                && may_be_empty.contains(&&*format!("{method}_{name}"))
            {
                body.required = Some(utoipa::openapi::Required::False);
            }
            let all = &mut operation.responses.responses;
            all.insert("default".into(), RefOr::T(error.clone()));
            if !middleware::is_open(path) {
                let none: [&str; 0] = [];
                let key = utoipa::openapi::security::SecurityRequirement::new("key", none);
                operation.security = Some(vec![key]);
            }
        }
    }
    api
}

/// Runs in a VM of their own and those in a sandbox have one body, of which each leaves out what is the other's.
fn narrow_run_bodies(api: &mut utoipa::openapi::OpenApi) {
    const SANDBOX_RUN: &str = "SandboxRunBody";
    let Some(components) = &mut api.components else {
        return;
    };
    let Some(RefOr::T(Schema::Object(alone))) = components.schemas.get_mut("RunBody") else {
        return;
    };
    let mut within = alone.clone();
    alone.properties.remove("context");
    for name in ["memory_mib", "packages", "refresh_packages", "network"] {
        within.properties.remove(name);
    }
    let within = RefOr::T(Schema::Object(within));
    components.schemas.insert(SANDBOX_RUN.into(), within);
    let item = api.paths.paths.get_mut("/v1/sandboxes/{id}/runs");
    let body = item.and_then(|item| item.post.as_mut()?.request_body.as_mut());
    if let Some(RefOr::T(body)) = body {
        for content in body.content.values_mut() {
            if let RefOr::T(content) = content {
                content.schema = Some(Ref::from_schema_name(SANDBOX_RUN).into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
