//! Tells cargo that the embedded migrations belong to the build.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
