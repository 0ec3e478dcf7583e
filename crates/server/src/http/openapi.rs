//! The OpenAPI description: what applies to all operations is added here rather than at each handler.

use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, ContentBuilder, HeaderBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Required,
    Response, ResponseBuilder, Schema, SchemaFormat, Server, Type, request_body::RequestBody,
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
const OPTIONAL_BODIES: [&str; 5] = [
    "patch_sandboxes_id",
    "post_sandboxes",
    "post_sandboxes_id_checkpoints",
    "post_sandboxes_id_fork",
    "post_sandboxes_id_resume",
];

/// Adds operation ids, the error response and the API key to all operations.
pub(super) fn complete(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    // The default, which not all generators know.
    api.servers = Some(vec![Server::new("/")]);
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
                add_headers(operation, method, path);
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

    if let Some(RefOr::T(RequestBody { content, .. })) = &mut operation.request_body {
        content.iter_mut().for_each(describe_bytes);
    }

    operation.operation_id = Some(id);

    let responses = &mut operation.responses.responses;
    for (status, response) in responses.iter_mut() {
        if let RefOr::T(response) = response {
            complete_response(status, response);
        }
    }
    responses.insert("default".into(), RefOr::T(error.clone()));

    if !is_public(path) {
        let no_scopes: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new("key", no_scopes)]);
    }
}

/// Gives a response the description that the standard requires, and the header that every response has.
fn complete_response(status: &str, response: &mut Response) {
    if response.description.is_empty() {
        let description = match status {
            "201" => "Created",
            "204" => "Done",
            _ => "The result",
        };
        description.clone_into(&mut response.description);
    }

    let id = HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some("The id of the request, as in the server's log"))
        .build();
    response.headers.insert("X-Request-Id".into(), RefOr::T(id));
    response.content.iter_mut().for_each(describe_bytes);
}

/// Describes a body of bytes. Derived from its Rust type, it would be a list of integers.
fn describe_bytes((media_type, content): (&String, &mut RefOr<Content>)) {
    if let RefOr::T(content) = content
        && media_type == "application/octet-stream"
    {
        let bytes = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        content.schema = Some(RefOr::T(bytes.build().into()));
    }
}

/// Adds the request headers that an operation reads.
fn add_headers(operation: &mut Operation, method: &str, path: &str) {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let parameters = operation.parameters.get_or_insert_default();

    if method != "get" {
        let key = text().pattern(Some("^[!-~]{1,128}$"));
        let description = "Repeating a request with its key returns the result of the first one";
        parameters.push(parameter("Idempotency-Key", description, key));
    }

    if path.ends_with("/events") {
        let number = ObjectBuilder::new().schema_type(Type::Integer);
        let number = number.minimum(Some(0)).maximum(Some(i64::MAX));
        let description = "Send the events after this number; it takes precedence over `after`";
        parameters.push(parameter("Last-Event-ID", description, number));
    }

    if method == "get" && path.ends_with("/files/content") {
        let description = "One range of bytes, as `bytes=0-99`; anything else is ignored";
        parameters.push(parameter("Range", description, text()));
    }
}

fn parameter(name: &str, description: &str, schema: ObjectBuilder) -> RefOr<Parameter> {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema));
    RefOr::T(parameter.build())
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

    let seconds = HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::Integer)))
        .description(Some(
            "Seconds until a retry makes sense; only with some errors",
        ))
        .build();

    let mut response = ResponseBuilder::new()
        .description("An error")
        .content("application/json", content)
        .header("Retry-After", seconds)
        .build();
    complete_response("default", &mut response);
    response
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

                for (status, response) in operation["responses"].as_object().unwrap() {
                    let description = response["description"].as_str().unwrap_or_default();
                    assert!(!description.is_empty(), "{method} {path} {status}");
                }

                // A list of integers is no body of bytes.
                let bytes = [&operation["requestBody"], &operation["responses"]["200"]];
                for body in bytes {
                    let schema = &body["content"]["application/octet-stream"]["schema"];
                    assert!(schema.is_null() || schema["format"] == "binary", "{path}");
                }

                let parameters = operation["parameters"].as_array();
                let has_key = parameters
                    .is_some_and(|all| all.iter().any(|one| one["name"] == "Idempotency-Key"));
                assert_eq!(has_key, method != "get", "{method} {path}");

                assert!(
                    ids.insert(operation["operationId"].to_string()),
                    "{method} {path}: {}",
                    operation["operationId"]
                );
            }
        }

        assert_eq!(count, 43);
    }
}
