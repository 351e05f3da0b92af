//! A new migration is compiled in: `sqlx::migrate!` alone notices changed files, not new ones.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
