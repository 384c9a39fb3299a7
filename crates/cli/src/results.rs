//! Where a job's results go: sealed to their owner or encrypted under a key, as JSON lines or as a table with its manifest.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use strongroom_cipherfile::FileKey;
use strongroom_cipherfile::sealed::Sealer;
use strongroom_cipherfile::tink_stream::Encryptor;
use strongroom_scoring::batch::{HandedOut, PlacedFile};
use strongroom_scoring::receipt::{
    Digest, DigestingWriter, Input, KeyFrom, ResultsFor, ResultsFormat, Subject,
};
use strongroom_scoring::results::{
    ConvertOptions, Features, TableConverter, TableFormat, TableKey,
};
use strongroom_wire::jwk::TeePublicKey;

use crate::files::{self, Existing, Output};
use crate::input::bound_name;
use crate::keys::{GuestArgs, KeySource};
use crate::outcome::quoted;
use crate::storage::StorageArgs;

/// What the owner gets, and how.
#[derive(Args)]
#[command(next_help_heading = "Results")]
pub(crate) struct ResultsArgs {
    /// Where to write the results, encrypted: a path or a storage's URL.
    #[arg(long, value_name = "FILE|URL", requires = "for_whom")]
    pub(crate) results: Option<PathBuf>,

    /// Whom the results are for: the public key as a kbs:/// URI, or a file.
    #[arg(
        long,
        value_name = "URI|FILE",
        requires = "results",
        group = "for_whom"
    )]
    pub(crate) results_to: Option<KeySource>,

    /// Encrypt the results under this key instead, for whoever has it: 32 raw bytes, a file or kbs:///repository/type/tag. A
    /// Parquet file gets Parquet's own encryption, which other readers know.
    #[arg(
        long,
        value_name = "FILE|URI",
        requires = "results",
        group = "for_whom"
    )]
    pub(crate) results_key: Option<KeySource>,

    /// Which rows the owner gets
    #[arg(long, value_enum, default_value_t = RowsArg::Flagged, requires = "results")]
    pub(crate) results_kind: RowsArg,

    /// What the results are written in. A table comes with a second file, its manifest: NAME.manifest.json.enc
    #[arg(long, value_enum, default_value_t = FormatArg::Jsonl, requires = "results")]
    results_format: FormatArg,

    /// Write the values that the model was shown into every row [default: into flagged rows as JSON lines].
    #[arg(long, requires = "results")]
    results_features: bool,

    /// Replace existing results.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum RowsArg {
    /// Those above the threshold, and the summary
    Flagged,
    /// Every row, and the summary
    All,
    /// The summary alone
    Summary,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum FormatArg {
    /// JSON lines
    Jsonl,
    /// CSV: file, row, probability. Names of files and keys stand in it as they are: where others choose them, import
    /// them as text, for a spreadsheet takes what begins with = + - or @ for a formula
    Csv,
    /// Parquet, with the same columns
    Parquet,
}

impl ResultsArgs {
    /// Whether what is there may be replaced.
    pub(crate) fn existing(&self) -> Existing {
        Existing::from_force(self.force)
    }

    /// Whether rows are handed out with their features.
    pub(crate) fn features(&self) -> HandedOut {
        match (self.results_features, self.results_format) {
            (true, _) => HandedOut::Always,
            (false, FormatArg::Jsonl) => HandedOut::IfFew,
            (false, FormatArg::Csv | FormatArg::Parquet) => HandedOut::Never,
        }
    }

    /// What they are written in, and for whom.
    pub(crate) fn form(&self) -> String {
        let for_whom = self.results_to.as_ref().or(self.results_key.as_ref());
        let for_whom = for_whom.map_or_else(String::new, ToString::to_string);
        format!("{:?} for {for_whom}", self.results_format)
    }

    /// Their files, in the order in which they are put in place.
    pub(crate) fn places(&self) -> anyhow::Result<Vec<PathBuf>> {
        let Some(target) = &self.results else {
            return Ok(Vec::new());
        };
        Ok(match self.results_format {
            FormatArg::Jsonl => vec![target.clone()],
            FormatArg::Csv | FormatArg::Parquet => vec![target.clone(), manifest_of(target)?],
        })
    }

    /// Begins the results; none where they are not wanted. Those files that are `ours` are replaced.
    pub(crate) fn begin(
        &self,
        storage: &StorageArgs,
        guest: &GuestArgs,
        keys: bool,
        hashes: bool,
        ours: &[PathBuf],
    ) -> anyhow::Result<Option<ResultsFile>> {
        let Some(target) = &self.results else {
            return Ok(None);
        };
        let for_whom = match (&self.results_to, &self.results_key) {
            (Some(recipient), _) => {
                if let KeySource::File(path) = recipient {
                    eprintln!(
                        "warning: the results go to the key in {}; whoever controls this machine's files chose it. Keep the key at the broker to be sure",
                        path.display()
                    );
                }
                ForWhom::Recipient(guest.recipient(recipient)?)
            }
            (None, Some(key)) => ForWhom::Key(guest.file_key(key)?, key.to_string()),
            (None, None) => bail!("say whom the results are for: --results-to or --results-key"),
        };
        let place = Place {
            storage,
            guest,
            existing: self.existing(),
            ours,
            hashes,
        };
        // Both files, so that one that is there already is told before the work.
        let manifest = match self.results_format {
            FormatArg::Jsonl => None,
            FormatArg::Csv | FormatArg::Parquet => {
                Some(place.sealed(&manifest_of(target)?, &for_whom)?)
            }
        };
        let features = if self.results_features {
            Features::Include
        } else {
            Features::Omit
        };
        let table = |format, encryption| ConvertOptions {
            format,
            keys,
            features,
            encryption,
        };
        let form = match (self.results_format, &for_whom) {
            (FormatArg::Jsonl, _) => Form::Lines(Box::new(place.sealed(target, &for_whom)?)),
            (FormatArg::Csv, _) => {
                let sealed = place.sealed(target, &for_whom)?;
                Form::Table(Box::new(TableConverter::new(
                    sealed,
                    table(TableFormat::Csv, None),
                )))
            }
            (FormatArg::Parquet, ForWhom::Key(key, name)) => {
                let encryption = TableKey {
                    key: key.expose_bytes().to_vec().into(),
                    name: name.clone(),
                    file_name: bound_name(target)?,
                };
                let output = Sealed::ByItself(place.output(target)?);
                let options = table(TableFormat::Parquet, Some(encryption));
                Form::Table(Box::new(TableConverter::new(output, options)))
            }
            (FormatArg::Parquet, ForWhom::Recipient(_)) => {
                let sealed = place.sealed(target, &for_whom)?;
                Form::Table(Box::new(TableConverter::new(
                    sealed,
                    table(TableFormat::Parquet, None),
                )))
            }
        };
        Ok(Some(ResultsFile {
            form,
            manifest,
            names: self.names()?,
        }))
    }

    /// What the files of the results are called: the results, then a table's manifest.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<String>> {
        let Some(target) = &self.results else {
            return Ok(Vec::new());
        };
        let mut names = vec![files::base_name(target)?];
        if self.results_format != FormatArg::Jsonl {
            names.push(files::base_name(&manifest_of(target)?)?);
        }
        Ok(names)
    }

    /// What a receipt says of how they are written.
    pub(crate) fn written(&self) -> (ResultsFormat, ResultsFor, KeyFrom) {
        let format = match self.results_format {
            FormatArg::Jsonl => ResultsFormat::Jsonl,
            FormatArg::Csv => ResultsFormat::Csv,
            FormatArg::Parquet => ResultsFormat::Parquet,
        };
        let (for_whom, key) = match &self.results_to {
            Some(recipient) => (ResultsFor::Recipient, Some(recipient)),
            None => (ResultsFor::Key, self.results_key.as_ref()),
        };
        (
            format,
            for_whom,
            key.map_or(KeyFrom::File, KeySource::origin),
        )
    }

    /// The options with which `strongroom verify receipt` compares them.
    pub(crate) fn compared_by(&self) -> Option<String> {
        let results = self.results.as_ref()?;
        let manifest = match self.results_format {
            FormatArg::Jsonl => None,
            FormatArg::Csv | FormatArg::Parquet => manifest_of(results).ok(),
        };
        let files = [Some(results), manifest.as_ref()].into_iter().flatten();
        let options = files.map(|file| format!("--result {}", quoted(&file.display().to_string())));
        Some(options.collect::<Vec<_>>().join(" "))
    }

    /// The command that shows them to their owner.
    pub(crate) fn reported_by(&self) -> Option<String> {
        let results = quoted(&self.results.as_ref()?.display().to_string());
        let key = match &self.results_key {
            Some(key) => format!("--key {}", quoted(&key.to_string())),
            None => "--identity OWNER.pem".to_owned(),
        };
        Some(format!(
            "strongroom report {results} {key}   # on the owner's machine"
        ))
    }

    /// The command that opens the results.
    pub(crate) fn opened_by(&self) -> Option<String> {
        let results = self.results.as_ref()?.display();
        Some(match (&self.results_key, self.results_format) {
            (Some(key), FormatArg::Parquet) => format!(
                "strongroom decrypt {results}.manifest.json.enc --key {key} --output -   # and {results} with any reader of encrypted Parquet"
            ),
            (Some(key), _) => format!("strongroom decrypt {results} --key {key} --output -"),
            (None, _) => format!("strongroom decrypt {results} --identity OWNER.pem --output -"),
        })
    }
}

/// `NAME.manifest.json.enc` beside `NAME` or `NAME.enc`.
pub(crate) fn manifest_of(target: &Path) -> anyhow::Result<PathBuf> {
    let text = target
        .to_str()
        .context("the name of the results is not UTF-8 text")?;
    let text = text.strip_suffix(".enc").unwrap_or(text);
    Ok(PathBuf::from(format!("{text}.manifest.json.enc")))
}

enum ForWhom {
    Recipient(TeePublicKey),
    Key(FileKey, String),
}

struct Place<'a> {
    storage: &'a StorageArgs,
    guest: &'a GuestArgs,
    existing: Existing,
    /// What this very job put in place before.
    ours: &'a [PathBuf],
    /// Whether a receipt or a checkpoint names what is written.
    hashes: bool,
}

impl Place<'_> {
    fn output(&self, target: &Path) -> anyhow::Result<Digested> {
        let existing = if self.ours.iter().any(|ours| ours == target) {
            Existing::Replace
        } else {
            self.existing
        };
        let output = self.storage.create(target, existing, 0o644, self.guest)?;
        Ok(DigestingWriter::new(output, self.hashes))
    }

    fn sealed(&self, target: &Path, for_whom: &ForWhom) -> anyhow::Result<Sealed> {
        let name = bound_name(target)?;
        let output = self.output(target)?;
        Ok(match for_whom {
            ForWhom::Recipient(key) => Sealed::To(Sealer::new(output, key, name.as_bytes())?),
            ForWhom::Key(key, _) => Sealed::Under(Encryptor::new(output, key, name.as_bytes())?),
        })
    }
}

/// Results that are being written. Dropped before [`Written::commit`], they are not there.
pub(crate) struct ResultsFile {
    form: Form,
    manifest: Option<Sealed>,
    names: Vec<String>,
}

/// What a table's manifest says of the receipt that names it.
pub(crate) struct ReceiptedAs<'a> {
    /// What the receipt is called.
    pub(crate) name: String,
    /// The inputs as it has them.
    pub(crate) inputs: &'a [Input],
}

enum Form {
    Lines(Box<Sealed>),
    Table(Box<TableConverter<Sealed>>),
}

impl ResultsFile {
    /// Ends them; what is left is to make them appear.
    pub(crate) fn finish(self, receipt: Option<ReceiptedAs<'_>>) -> anyhow::Result<Written> {
        const WRITE: &str = "cannot write the results";
        let (sealed, manifest) = match self.form {
            Form::Lines(sealed) => (*sealed, None),
            Form::Table(table) => {
                let (sealed, manifest) = table.finish().context(WRITE)?;
                (sealed, Some(manifest))
            }
        };
        let mut finished = vec![sealed.finish().context(WRITE)?.finish()];
        if let Some((mut file, mut manifest)) = self.manifest.zip(manifest) {
            if let Some(receipt) = receipt {
                manifest.sources = receipt.inputs.to_vec();
                manifest.receipt = Some(receipt.name);
            }
            file.write_all(&manifest.to_json()).context(WRITE)?;
            finished.push(file.finish().context(WRITE)?.finish());
        }
        let (outputs, digests): (Vec<_>, Vec<_>) = finished.into_iter().unzip();
        let named = digests.iter().zip(&self.names);
        let named = named.map(|(digest, name)| Some(Subject::new(name, digest.as_ref()?)));
        Ok(Written {
            outputs,
            subjects: named.collect(),
            digests,
        })
    }
}

/// Results that are whole, and not there yet.
pub(crate) struct Written {
    outputs: Vec<Output>,
    /// What a receipt calls them by, where there is to be one.
    pub(crate) subjects: Option<Vec<Subject>>,
    /// The digests of all files, where they are hashed.
    digests: Vec<Option<Digest>>,
}

impl Written {
    /// What a checkpoint knows the files by.
    pub(crate) fn files(&self) -> Vec<PlacedFile> {
        let files = self.digests.iter().flatten().map(|digest| PlacedFile {
            bytes: digest.bytes,
            sha256: digest.sha256.clone(),
        });
        files.collect()
    }

    /// Makes them appear, a table's manifest last: without it the table is not taken for whole.
    pub(crate) fn commit(self) -> anyhow::Result<()> {
        self.outputs.into_iter().try_for_each(Output::commit)
    }
}

/// An output whose bytes are hashed on the way, when asked for.
type Digested = DigestingWriter<Output>;

impl Write for ResultsFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.form {
            Form::Lines(sealed) => sealed.write(bytes),
            Form::Table(table) => table.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.form {
            Form::Lines(sealed) => sealed.flush(),
            Form::Table(table) => table.flush(),
        }
    }
}

/// An output that nobody reads but for whom it is.
enum Sealed {
    To(Sealer<Digested>),
    Under(Encryptor<Digested>),
    /// What is written is encrypted already.
    ByItself(Digested),
}

impl Sealed {
    fn finish(self) -> io::Result<Digested> {
        match self {
            Self::To(sealer) => sealer.finish().map_err(io::Error::other),
            Self::Under(encryptor) => encryptor.finish(),
            Self::ByItself(output) => Ok(output),
        }
    }
}

impl Write for Sealed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::To(sealer) => sealer.write(bytes),
            Self::Under(encryptor) => encryptor.write(bytes),
            Self::ByItself(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::To(sealer) => sealer.flush(),
            Self::Under(encryptor) => encryptor.flush(),
            Self::ByItself(output) => output.flush(),
        }
    }
}
