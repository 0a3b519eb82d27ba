"""Self-signed certificates for 127.0.0.1 and their keys, which open nothing: for tests of TLS alone."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM, and the end of its life."""

    certificate: str
    key: str
    not_after_unix_s: float

    def write(self, folder: Path) -> dict[str, str]:
        """Into files, which are given as `listen.tls` wants them."""
        for name, text in (("certificate", self.certificate), ("key", self.key)):
            (folder / f"{name}.pem").write_text(text)
        return {name: str(folder / f"{name}.pem") for name in ("certificate", "key")}


GOOD = Pair(
    certificate="""\
-----BEGIN CERTIFICATE-----
MIIBojCCAUegAwIBAgIUGbZO678X5zL3/FVF+X9Z001QF78wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEZ29vZDAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAw
MFowDzENMAsGA1UEAwwEZ29vZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDg/
3pXEZ1X40Kgp0e/X8jRlyNCK0og1hvce/6Th/XdjBh/iN0HZuArp9V/ST7hDDBZm
JOA9DQx1qnf2py52KjijfzB9MBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAP
BgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBTSaWavbHpo0AvAs65d0O5z7fRwjTAf
BgNVHSMEGDAWgBTSaWavbHpo0AvAs65d0O5z7fRwjTAOBgNVHQ8BAf8EBAMCAoQw
CgYIKoZIzj0EAwIDSQAwRgIhAIEkYuScUNFOZYzXmCMMWrin1bQJobfW28woC2Z/
i1KmAiEAqhqI9lzzpm+a6fjXIzyiMSNuakCHdumKtVHp9xLRc2c=
-----END CERTIFICATE-----
""",
    key="""\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgb6Iczs1RMtvhFlBD
K2wtNObWhkVgXGlOQSlzXQYGU6ShRANCAAQ4P96VxGdV+NCoKdHv1/I0ZcjQitKI
NYb3Hv+k4f13YwYf4jdB2bgK6fVf0k+4QwwWZiTgPQ0Mdap39qcudio4
-----END PRIVATE KEY-----
""",
    not_after_unix_s=4733510400.0,
)
"""Its end is a GeneralizedTime."""
RENEWED = Pair(
    certificate="""\
-----BEGIN CERTIFICATE-----
MIIBpTCCAUugAwIBAgIUOwbe+Rk7cSRspQytooFtoysMFhMwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHcmVuZXdlZDAeFw0yMTAxMDEwMDAwMDBaFw00OTAxMDEwMDAw
MDBaMBIxEDAOBgNVBAMMB3JlbmV3ZWQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQQJIOYeTbElCIta79SvX87JWAoPX9NviMivDRhKGPzB4XIyusvWcBPU+mwp1Kh
oX+WIlpP+C6a6AxS+L6YR2aao38wfTAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8A
AAEwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUiD+a4vX1l9z6UYl/8r1FnBz2
Jq0wHwYDVR0jBBgwFoAUiD+a4vX1l9z6UYl/8r1FnBz2Jq0wDgYDVR0PAQH/BAQD
AgKEMAoGCCqGSM49BAMCA0gAMEUCICmrDgaTxPFz671Kbdf3mUaILFJtmGgNjTDK
miVnmDVnAiEA5rV69TmTXF/anLx0QJTWfnpbOMfUy7SH9LjbUQYtJiE=
-----END CERTIFICATE-----
""",
    key="""\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg+TxRE7n3GYo6tB6d
r8v7O5ZbvvLfiljRvaqczDg26EShRANCAAQQJIOYeTbElCIta79SvX87JWAoPX9N
viMivDRhKGPzB4XIyusvWcBPU+mwp1KhoX+WIlpP+C6a6AxS+L6YR2aa
-----END PRIVATE KEY-----
""",
    not_after_unix_s=2493072000.0,
)
"""Its end is a UTCTime."""
EXPIRED = Pair(
    certificate="""\
-----BEGIN CERTIFICATE-----
MIIBpDCCAUugAwIBAgIUB1lWaYdS4EzNwM3Z8kptVlGN37owCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHZXhwaXJlZDAeFw0xOTAxMDEwMDAwMDBaFw0yMDAxMDEwMDAw
MDBaMBIxEDAOBgNVBAMMB2V4cGlyZWQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AARMPTm6X//pn/aR3uJsvmk//kQKioki9roSBcdoTBDwbgxEH37NBcDYXPJaHlp5
9EkUhpJkC8Mg/pM26UosPTXzo38wfTAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8A
AAEwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQU7MM3WhjfsCcW7PzJSneNr2mr
WUowHwYDVR0jBBgwFoAU7MM3WhjfsCcW7PzJSneNr2mrWUowDgYDVR0PAQH/BAQD
AgKEMAoGCCqGSM49BAMCA0cAMEQCIBFlL/Gzpqd2ZKvUTMO99Ozbo7G1hHS2W2kZ
LYk3j+xqAiAG+TKy7MbDP3p7UApl0lJQK6w+Vpv/wDXCaSY2JYvcZA==
-----END CERTIFICATE-----
""",
    key="""\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBHhPfIi8vp3O6B/9
/EBxOgJqKv5VG88BWyWkarXHcAChRANCAARMPTm6X//pn/aR3uJsvmk//kQKioki
9roSBcdoTBDwbgxEH37NBcDYXPJaHlp59EkUhpJkC8Mg/pM26UosPTXz
-----END PRIVATE KEY-----
""",
    not_after_unix_s=1577836800.0,
)
LOCKED_KEY = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIH0MF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBDR9qlLEAhm6aIg+3Re
5tm4AgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQ0MxGGdjoKw61oh1e
HV04hwSBkGR5uz0nTFPvbVt118qYT5LW9mmmuYLiAuets1FtXTYmK79q7CxZu+1t
ZQBrx1A1gCGW4UIsaOURQJysKpM3nj3wQgPaRuKqX9kglev0mFnsRcDQue9zs/aB
zEM9okMPLIjK1y5q2wexmQo+sotLtlK+SFN8YhSks8NUjYf/4fmCyBFZOTDBAnFk
sPrpLrdrmw==
-----END ENCRYPTED PRIVATE KEY-----
"""
"""The key of `GOOD`, behind a password."""
