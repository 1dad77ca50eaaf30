//! All start methods, and `init` as documented.

fn main() {
    multiprocess::init();
    elsewhere::check_all();
    println!("works");
}
