//! A helper process by itself, for the tests of the pool; the product is its own helper.

fn main() {
    san_host::helper_main()
}
