//! `galley-server`: the control plane of every cluster, on one Postgres.

mod admin;
mod arguments;
mod run;

use clap::Parser;

use arguments::{Arguments, Command};

/// Objects are many small allocations of like sizes, by all threads; and what an unloaded cluster frees must go back to the
/// system, or ten thousand idle ones would cost what they cost at their busiest.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let logs = tracing_subscriber::fmt().with_env_filter(arguments.log_filter).with_writer(std::io::stderr);
    if arguments.log_json {
        logs.json().init();
    } else {
        logs.init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Run(options) => run::run(options).await,
            Command::Admin(admin) => admin::run(admin).await,
            Command::Openapi => {
                print!("{}", galley_api_server::management::openapi_document());
                Ok(())
            }
        }
    })
}
