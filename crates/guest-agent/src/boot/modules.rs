use std::fs::{self, File};
use std::path::Path;

use super::{BootError, refused};

/// Where an initramfs for a kernel with modules names those to load, one file a line, in order.
const ORDER: &str = "/modules/order";

/// Loads the kernel modules that came along, if any did. Our own kernel has none.
pub(super) fn load() -> Result<(), BootError> {
    let Ok(order) = fs::read_to_string(ORDER) else {
        return Ok(());
    };
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = Path::new("/modules").join(name);
        let file = File::open(&path).map_err(refused(format!("open {}", path.display())))?;
        match rustix::system::finit_module(&file, c"", 0) {
            // Built in, or loaded by one before it.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(refused(format!("load the module {name}"))(error)),
        }
    }
    Ok(())
}
