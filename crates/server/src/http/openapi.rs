//! The OpenAPI description: what applies to all operations is added here rather than at each handler.

use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
    request_body::RequestBody,
};

use super::middleware::is_public;
use crate::error::ErrorResponse;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "fumehood",
        description = "Runs untrusted code in fresh microVMs."
    ),
    components(schemas(ErrorResponse))
)]
pub(super) struct Description;

/// Operations whose request body may be empty.
const OPTIONAL_BODIES: [&str; 3] = [
    "patch_sandboxes_id",
    "post_sandboxes",
    "post_sandboxes_id_fork",
];

/// Adds operation ids, the error response and the API key to all operations.
pub(super) fn complete(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = api.components.get_or_insert_default();
    components.add_security_scheme("key", SecurityScheme::Http(scheme));

    let error = error_response();

    for (path, item) in &mut api.paths.paths {
        let name = path_name(path);
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("delete", &mut item.delete),
            ("patch", &mut item.patch),
        ];

        for (method, operation) in operations {
            if let Some(operation) = operation {
                let id = format!("{method}_{name}");
                complete_operation(operation, id, path, &error);
            }
        }
    }

    api
}

fn complete_operation(operation: &mut Operation, id: String, path: &str, error: &Response) {
    if let Some(RefOr::T(RequestBody { required, .. })) = &mut operation.request_body
        && OPTIONAL_BODIES.contains(&&*id)
    {
        *required = Some(Required::False);
    }

    operation.operation_id = Some(id);

    let responses = &mut operation.responses.responses;
    responses.insert("default".into(), RefOr::T(error.clone()));

    if !is_public(path) {
        let no_scopes: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new("key", no_scopes)]);
    }
}

/// The schemas of requests that start programs.
const PROGRAM_REQUESTS: [&str; 3] = ["OneShotRunRequest", "ProcessRequest", "SandboxRunRequest"];

/// Sets the longest timeout of a program, in seconds.
pub(super) fn set_max_timeout(api: &mut utoipa::openapi::OpenApi, seconds: u64) {
    let schemas = &mut api.components.get_or_insert_default().schemas;

    for name in PROGRAM_REQUESTS {
        if let Some(RefOr::T(Schema::Object(request))) = schemas.get_mut(name)
            && let Some(RefOr::T(Schema::Object(timeout))) = request.properties.get_mut("timeout_s")
        {
            timeout.maximum = Some(usize::try_from(seconds).unwrap_or(usize::MAX).into());
        }
    }
}

/// Returns the words of a path, such as `sandboxes_id_runs`.
fn path_name(path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words
        .filter(|word| !word.is_empty() && *word != "v1")
        .collect();
    words.join("_")
}

fn error_response() -> Response {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ErrorResponse")))
        .build();

    ResponseBuilder::new()
        .description("An error")
        .content("application/json", content)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi;

    #[test]
    fn the_longest_timeout_is_that_of_the_server() {
        let mut api = openapi();
        set_max_timeout(&mut api, 7200);
        let api = serde_json::to_value(api).unwrap();

        for name in PROGRAM_REQUESTS {
            let request = &api["components"]["schemas"][name];
            let timeout = &request["properties"]["timeout_s"];
            assert_eq!(timeout["maximum"], 7200, "{name}");
        }
    }

    #[test]
    fn every_operation_has_an_error_response_and_a_unique_id() {
        let api = serde_json::to_value(openapi()).unwrap();
        let mut ids = std::collections::BTreeSet::new();
        let mut count = 0;

        for (path, item) in api["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                count += 1;
                assert!(
                    operation["responses"]["default"].is_object(),
                    "{method} {path}"
                );

                assert!(
                    ids.insert(operation["operationId"].to_string()),
                    "{method} {path}: {}",
                    operation["operationId"]
                );
            }
        }

        assert_eq!(count, 38);
    }
}
