//! Unpacks fetched files as data: no script is run, no path leaves the target folder, and sizes are bounded.

mod deb;
mod tree;
mod wheel;
mod wheel_tree;

pub use deb::{Limits, UnpackError, unpack_deb, unpack_deb_into, unpack_tar_xz};
pub use tree::{Node, Tree, TreeError, write_tree};
pub use wheel::{WheelError, wheel_file, wheel_file_into};
pub use wheel_tree::unpack_wheel_into;
