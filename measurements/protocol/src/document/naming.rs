//! Conversion between documents that hold their collateral and documents that name it by digest.

use super::{Collateral, Document, DocumentError, Kind};
use crate::bytes::{Blob, Hex32};
use crate::gpu::{GpuCollateral, GpuError, MAX_OCSP, MAX_OCSP_RESPONSES, MAX_RIM, MAX_RIMS};
use crate::pieces::{MAX_CERTIFICATES, MAX_PIECES_LEN, Names, Pieces, PiecesError};

impl<Piece> Collateral<Piece> {
    /// Converts each item and keeps the shape.
    fn try_map<Other, Error>(
        self,
        mut each: impl FnMut(Piece) -> Result<Other, Error>,
    ) -> Result<Collateral<Other>, Error> {
        Ok(match self {
            Self::Tdx { json } => Collateral::Tdx { json: each(json)? },
            Self::SevSnp { certificates, crl } => Collateral::SevSnp {
                certificates: certificates
                    .into_iter()
                    .map(&mut each)
                    .collect::<Result<_, _>>()?,
                crl: crl.map(each).transpose()?,
            },
        })
    }
}

impl Document {
    /// Replaces the collateral in the document by its digests and returns the pieces taken out.
    pub fn name_collateral(&mut self) -> Pieces {
        let mut pieces = Pieces::default();
        let collateral = self.collateral.take().map(|collateral| match collateral {
            Collateral::Tdx { json } => Collateral::Tdx {
                json: pieces.insert(json.0),
            },
            Collateral::SevSnp { certificates, crl } => Collateral::SevSnp {
                certificates: certificates
                    .into_iter()
                    .map(|der| pieces.insert(der.0))
                    .collect(),
                crl: crl.map(|der| pieces.insert(der.0)),
            },
        });
        let gpu_collateral = self.gpu_collateral.take().map(|gpu| GpuCollateral {
            rims: gpu
                .rims
                .into_iter()
                .map(|xml| pieces.insert(xml.into_bytes()))
                .collect(),
            ocsp: gpu
                .ocsp
                .into_iter()
                .map(|der| pieces.insert(der.0))
                .collect(),
        });
        if collateral.is_some() || gpu_collateral.is_some() {
            self.named = Some(Names {
                collateral,
                gpu_collateral,
            });
        }
        pieces
    }

    /// Returns the digests of the pieces that the document names, each once.
    pub fn names(&self) -> Vec<Hex32> {
        self.named.as_ref().map_or_else(Vec::new, Names::listed)
    }

    /// Replaces the digests by the collateral that they name. The result is the whole document, which is appraised and kept.
    ///
    /// # Errors
    /// [`PiecesError`] if a piece is missing, too long or of the wrong kind. The document is then unusable.
    pub fn fill(&mut self, pieces: &Pieces) -> Result<(), PiecesError> {
        let Some(named) = self.named.take() else {
            return Ok(());
        };
        check_sizes(&named, pieces)?;
        let Names {
            collateral,
            gpu_collateral,
        } = named;
        let piece = |name: Hex32| match pieces.get(&name) {
            Some(piece) => Ok(piece.to_vec()),
            None => Err(PiecesError::Missing(name)),
        };
        let text = |name| String::from_utf8(piece(name)?).map_err(|_| PiecesError::NoText(name));
        if let Some(collateral) = collateral {
            self.collateral = Some(collateral.try_map(|name| piece(name).map(Blob))?);
        }
        if let Some(GpuCollateral { rims, ocsp }) = gpu_collateral {
            self.gpu_collateral = Some(GpuCollateral {
                rims: rims.into_iter().map(text).collect::<Result<_, _>>()?,
                ocsp: ocsp
                    .into_iter()
                    .map(|name| piece(name).map(Blob))
                    .collect::<Result<_, _>>()?,
            });
        }
        self.check().map_err(PiecesError::Document)
    }

    pub(super) fn check_names(&self) -> Result<(), DocumentError> {
        let Some(named) = &self.named else {
            return Ok(());
        };
        if self.kind != Kind::Session {
            return Err(DocumentError::NamedInBoot);
        }
        let twice = |held: bool, named: bool| held && named;
        if twice(self.collateral.is_some(), named.collateral.is_some())
            || twice(
                self.gpu_collateral.is_some(),
                named.gpu_collateral.is_some(),
            )
        {
            return Err(DocumentError::NamedAndHeld);
        }
        if named.gpu_collateral.is_some() && self.gpu.is_none() {
            return Err(DocumentError::StrayGpu);
        }
        let certificates = match &named.collateral {
            Some(Collateral::SevSnp { certificates, .. }) => certificates.len(),
            Some(Collateral::Tdx { .. }) | None => 0,
        };
        let (rims, ocsp) = match &named.gpu_collateral {
            Some(gpu) => (gpu.rims.len(), gpu.ocsp.len()),
            None => (0, 0),
        };
        for (what, found, limit) in [
            ("certificates of the CPU", certificates, MAX_CERTIFICATES),
            ("reference manifests", rims, MAX_RIMS),
            ("OCSP responses", ocsp, MAX_OCSP_RESPONSES),
        ] {
            if found > limit {
                return Err(DocumentError::TooManyNames { what, found, limit });
            }
        }
        Ok(())
    }
}

/// Checks the sizes before anything is copied. A piece travels once but may be named in about a hundred places, each of which
/// gets a copy.
fn check_sizes(named: &Names, pieces: &Pieces) -> Result<(), PiecesError> {
    let length = |name: &Hex32| match pieces.get(name) {
        Some(piece) => Ok(piece.len()),
        None => Err(PiecesError::Missing(*name)),
    };
    let mut found = 0;
    for name in named.places() {
        found += length(&name)?;
        if found > MAX_PIECES_LEN {
            return Err(PiecesError::TooLong { found });
        }
    }
    let Some(GpuCollateral { rims, ocsp }) = &named.gpu_collateral else {
        return Ok(());
    };
    for (what, names, limit) in [
        ("bytes of a reference manifest", rims, MAX_RIM),
        ("bytes of an OCSP response", ocsp, MAX_OCSP),
    ] {
        for name in names {
            let found = length(name)?;
            if found > limit {
                let error = GpuError::TooMany { what, found, limit };
                return Err(PiecesError::Document(DocumentError::GpuCollateral(error)));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
