//! Sessions, limits and rejected requests.

mod limits;
mod refresh;
mod rejections;
mod session;
