use std::fs::{self, File};
use std::path::Path;

use super::error::{BootError, failed_to};

/// Lists the modules to load in order, one file name per line. Only an initramfs for a kernel with modules contains it.
const ORDER: &str = "/modules/order";

/// Loads the kernel modules of the initramfs, if it contains any. The kernel of fumehood's own image has none.
pub(super) fn load() -> Result<(), BootError> {
    let Ok(order) = fs::read_to_string(ORDER) else {
        return Ok(());
    };

    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = Path::new("/modules").join(name);
        let file = File::open(&path).map_err(failed_to(format!("open {}", path.display())))?;
        match rustix::system::finit_module(&file, c"", 0) {
            // EEXIST: the module is built in, or an earlier one has loaded it.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed_to(format!("load the module {name}"))(error)),
        }
    }

    Ok(())
}
