//! The database under the local system: an embedded engine behind a loopback port, or another endpoint; and the
//! template's tables in it.

use std::fs::{File, TryLockError};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::SharedCredentialsProvider;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, Projection,
    StreamSpecification, TableStatus, TimeToLiveSpecification,
};
use shared::config::{ConfigError, env};
use shared::store::{Endpoint, Timeouts, chain};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

use crate::private;
use crate::template::{KeyElement, Table};

/// Where the data is.
#[derive(Clone, Debug)]
pub enum Database {
    /// In this process's memory; gone when it ends.
    Memory,
    /// In a folder; made if it is not there.
    Folder(PathBuf),
    /// In another DynamoDB, at this URL.
    Endpoint(String),
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The folder cannot be made, read or locked.
    #[error("data folder {}: {source}", folder.display())]
    Folder {
        /// Which one.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process works on the folder.
    #[error("data folder {}: another process is using it", .0.display())]
    InUse(PathBuf),
    /// The engine does not open the file, or does not start.
    #[error("database {0}")]
    Engine(String),
    /// The environment says how to reach it, and is broken.
    #[error(transparent)]
    Environment(#[from] ConfigError),
    /// A table of the template cannot be made.
    #[error("DynamoDB at {url}: table {table}: {cause}")]
    Table {
        /// Where.
        url: String,
        /// Its logical id.
        table: String,
        /// Why.
        cause: String,
    },
}

/// A database in use. Dropping it closes the embedded engine.
pub(crate) struct Connection {
    pub(crate) client: Client,
    /// The client's credentials.
    pub(crate) credentials: SharedCredentialsProvider,
    /// The embedded engine: for what DynamoDB does by itself.
    engine: Option<dynoxide::Database>,
    /// Where it answers. The embedded engine answers other clients there, too.
    pub(crate) url: String,
    _stopped: watch::Sender<()>,
    _lock: Option<File>,
}

impl Connection {
    /// Opens the database and connects the SDK to it.
    ///
    /// The embedded engine answers other clients, too, on `port` of the loopback address; 0 takes a free one.
    pub(crate) async fn open(
        database: &Database,
        port: u16,
        timeouts: Timeouts,
    ) -> Result<Self, DatabaseError> {
        let (engine, lock) = match database {
            Database::Endpoint(url) => {
                // An engine on one's own machine takes any credentials; AWS needs those of the environment.
                let any_credentials = env("AWS_ACCESS_KEY_ID").is_none();
                let endpoint =
                    Endpoint { url: Some(url.clone()), any_credentials, timeouts, ..Endpoint::from_env()? };
                let credentials = endpoint.credentials();
                let client = endpoint.client();
                let stopped = watch::Sender::new(());
                let url = url.clone();
                return Ok(Self { client, credentials, engine: None, url, _stopped: stopped, _lock: None });
            }
            Database::Memory => (dynoxide::Database::memory(), None),
            Database::Folder(folder) => {
                let lock = lock(folder)?;
                let file = folder.join("rollcall.db");
                keep_private(&file)
                    .map_err(|source| DatabaseError::Folder { folder: folder.clone(), source })?;
                (dynoxide::Database::new(&file.to_string_lossy()), Some(lock))
            }
        };
        let engine = engine.map_err(|error| DatabaseError::Engine(format!("does not open: {error}")))?;
        let stopped = watch::Sender::new(());
        let url = serve(engine.clone(), port, stopped.subscribe())
            .await
            .map_err(|error| DatabaseError::Engine(format!("cannot listen on port {port}: {error}")))?;
        let endpoint =
            Endpoint { url: Some(url.clone()), any_credentials: true, timeouts, ..Endpoint::default() };
        let credentials = endpoint.credentials();
        let client = endpoint.client();
        Ok(Self { client, credentials, engine: Some(engine), url, _stopped: stopped, _lock: lock })
    }

    /// Makes the tables that are not there yet.
    pub(crate) async fn create_tables(&self, tables: &[Table]) -> Result<(), DatabaseError> {
        for table in tables {
            create_table(&self.client, table).await.map_err(|cause| {
                let (url, table) = (self.url.clone(), table.logical_id.clone());
                DatabaseError::Table { url, table, cause }
            })?;
        }
        Ok(())
    }

    /// Removes rows whose time to live is over: DynamoDB does it by itself, the embedded engine when it is told.
    pub(crate) async fn expire_rows(&self) -> Result<usize, String> {
        let Some(engine) = self.engine.clone() else { return Ok(0) };
        let swept = tokio::task::spawn_blocking(move || engine.sweep_ttl()).await;
        swept.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

/// Makes the folder, and keeps other processes off it for as long as the file is open.
fn lock(folder: &Path) -> Result<File, DatabaseError> {
    let unusable = |source| DatabaseError::Folder { folder: folder.to_owned(), source };
    private::folder(folder).map_err(unusable)?;
    let file = private::file(&folder.join("lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DatabaseError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// Rows hold what agents post. The engine makes its other files with the rights of this one.
fn keep_private(database: &Path) -> io::Result<()> {
    private::file(database)?;
    for beside in ["-wal", "-shm"] {
        let mut path = database.as_os_str().to_owned();
        path.push(beside);
        if Path::new(&path).exists() {
            private::file(Path::new(&path))?;
        }
    }
    Ok(())
}

/// Serves the engine on this loopback port until the sender of `stopped` is gone; the answer is its URL.
async fn serve(
    engine: dynoxide::Database,
    port: u16,
    mut stopped: watch::Receiver<()>,
) -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        let stopped = async move {
            // The sender sends nothing; this ends with its drop.
            let _gone = stopped.changed().await;
        };
        if let Err(error) = dynoxide::server::serve_with_shutdown(listener, engine, stopped).await {
            eprintln!("the embedded database stopped: {error}");
        }
    });
    Ok(url)
}

async fn create_table(client: &Client, table: &Table) -> Result<(), String> {
    let sdk = |error: aws_sdk_dynamodb::error::BuildError| error.to_string();
    let mut request = client
        .create_table()
        .table_name(&table.name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(key_schema(&table.key_schema)?));
    for attribute in &table.attributes {
        let definition = AttributeDefinition::builder()
            .attribute_name(&attribute.name)
            .attribute_type(attribute.attribute_type.as_str().into());
        request = request.attribute_definitions(definition.build().map_err(sdk)?);
    }
    for index in &table.global_secondary_indexes {
        let non_key = (!index.non_key_attributes.is_empty()).then(|| index.non_key_attributes.clone());
        let projection = Projection::builder()
            .projection_type(index.projection_type.as_str().into())
            .set_non_key_attributes(non_key);
        let index = GlobalSecondaryIndex::builder()
            .index_name(&index.name)
            .set_key_schema(Some(key_schema(&index.key_schema)?))
            .projection(projection.build());
        request = request.global_secondary_indexes(index.build().map_err(sdk)?);
    }
    if let Some(view) = &table.stream_view_type {
        let stream =
            StreamSpecification::builder().stream_enabled(true).stream_view_type(view.as_str().into());
        request = request.stream_specification(stream.build().map_err(sdk)?);
    }
    match request.send().await {
        Ok(_) => {}
        Err(error) if error.code() == Some("ResourceInUseException") => {
            return has_the_indexes(client, table).await;
        }
        Err(error) => return Err(chain(&error)),
    }
    until_active(client, &table.name).await?;
    let Some(attribute) = &table.ttl_attribute else { return Ok(()) };
    let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute);
    let request = client.update_time_to_live().table_name(&table.name);
    let request = request.time_to_live_specification(ttl.build().map_err(sdk)?);
    request.send().await.map(|_| ()).map_err(|error| chain(&error))
}

/// Whether a table that is there already has the template's indexes: an earlier build may have made it.
async fn has_the_indexes(client: &Client, table: &Table) -> Result<(), String> {
    let described = client.describe_table().table_name(&table.name).send().await;
    let description = described.map_err(|error| chain(&error))?.table;
    let there = description.and_then(|table| table.global_secondary_indexes).unwrap_or_default();
    let is_there = |name: &str| there.iter().any(|index| index.index_name() == Some(name));
    match table.global_secondary_indexes.iter().find(|index| !is_there(&index.name)) {
        None => Ok(()),
        Some(missing) => Err(format!(
            "it was made by an earlier build, without the index {}: start with another folder or table prefix",
            missing.name
        )),
    }
}

fn key_schema(keys: &[KeyElement]) -> Result<Vec<KeySchemaElement>, String> {
    keys.iter()
        .map(|key| {
            KeySchemaElement::builder()
                .attribute_name(&key.attribute)
                .key_type(key.key_type.as_str().into())
                .build()
                .map_err(|error| error.to_string())
        })
        .collect()
}

/// AWS makes tables in the background.
async fn until_active(client: &Client, table: &str) -> Result<(), String> {
    loop {
        let described = client.describe_table().table_name(table).send().await;
        let described = described.map_err(|error| chain(&error))?;
        if described.table.and_then(|table| table.table_status) == Some(TableStatus::Active) {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
}
