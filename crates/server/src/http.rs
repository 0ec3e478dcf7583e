/// Who comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// This user's own processes.
    Local,
    /// Whoever has a key.
    Keyed,
}
/// The API.
pub fn app(_service: &crate::Service, _door: Door) -> axum::Router {
    axum::Router::new()
}
/// The description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    utoipa::openapi::OpenApi::default()
}
