/// x
#[derive(Debug)]
pub struct Listeners;
/// x
pub fn default_socket() -> std::path::PathBuf {
    std::path::PathBuf::new()
}
