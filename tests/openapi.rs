//! Prints the description of the admin API, for `make generate`.

fn main() {
    println!("{:#}", support::openapi::generated());
}
