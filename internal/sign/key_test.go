package sign

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"kiln/internal/model"
)

func generate(t testing.TB) *PrivateKey {
	t.Helper()
	key, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// wantError wants an error of the class, with the words in it and in its hint.
func wantError(t testing.TB, err error, code model.Code, words, hint string) {
	t.Helper()
	if model.CodeOf(err) != code || !strings.Contains(err.Error(), words) || !strings.Contains(model.HintOf(err), hint) {
		t.Errorf("error %q (%s), hint %q; want %s with %q, hint %q", fmt.Sprint(err), model.CodeOf(err), model.HintOf(err), code, words, hint)
	}
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	for name, passphrase := range map[string][]byte{"clear": nil, "encrypted": []byte("correct horse")} {
		key, path := generate(t), filepath.Join(dir, name)
		if err := key.WriteFile(path, passphrase); err != nil {
			t.Fatal(err)
		}
		if err := key.Public().WriteFile(path + ".pub"); err != nil {
			t.Fatal(err)
		}
		again, err := ReadPrivateKey(path, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		public, err := ReadPublicKey(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if !again.Public().Equal(key.Public()) || !public.Equal(key.Public()) || public.ID() != key.Public().ID() {
			t.Errorf("%s: other keys were read than written", name)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: its mode is %v (%v)", name, info.Mode(), err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, generate(t).WriteFile(path, nil), model.Conflict, "never overwritten", "another name")
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s was changed (%v)", name, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("beside the keys there is something: %v (%v)", entries, err)
	}
	wantError(t, generate(t).WriteFile(filepath.Join(dir, "no", "key"), nil), model.Unavailable, "no such file or directory", "")
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	wantError(t, generate(t).WriteFile(filepath.Join(dir, "link"), nil), model.Conflict, "never overwritten", "")
}

// TestOneOfManyWriters makes the same file several times at once: one of them does.
func TestOneOfManyWriters(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "key")
		var writing sync.WaitGroup
		var made atomic.Pointer[PrivateKey]
		for range 8 {
			key := generate(t)
			writing.Go(func() {
				switch err := key.WriteFile(path, nil); {
				case err == nil && !made.CompareAndSwap(nil, key):
					t.Error("two of them made it")
				case err != nil && model.CodeOf(err) != model.Conflict:
					t.Error(err)
				}
			})
		}
		writing.Wait()
		got, err := ReadPrivateKey(path, nil)
		if err != nil || !got.Public().Equal(made.Load().Public()) {
			t.Fatalf("it is another key than the one that was made (%v)", err)
		}
	}
}

func TestPassphrases(t *testing.T) {
	key := generate(t)
	text, err := key.PEM([]byte("right"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")) {
		t.Errorf("it is written as %s", text)
	}
	_, err = ParsePrivateKey("kiln.key", text, []byte("wrong"))
	wantError(t, err, model.Denied, "cannot use kiln.key as a private key: the passphrase is wrong", "with which it was encrypted")
	if !errors.Is(err, ErrWrongPassphrase) {
		t.Error("it is not ErrWrongPassphrase")
	}
	_, err = ParsePrivateKey("kiln.key", text, nil)
	wantError(t, err, model.Precondition, "cannot use kiln.key as a private key: it is encrypted, and no passphrase was given", "give the passphrase")
	if !errors.Is(err, ErrNoPassphrase) {
		t.Error("it is not ErrNoPassphrase")
	}
	clear, err := key.PEM(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePrivateKey("kiln.key", clear, []byte("not needed")); err != nil {
		t.Error(err)
	}
}

// TestDamagedKeys changes each byte of an encrypted key: never a panic, never a key.
func TestDamagedKeys(t *testing.T) {
	text, err := generate(t).PEM([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	for i := range 90 { // what describes the encryption; not the count, which makes it slow
		if i >= 40 && i <= 60 {
			continue
		}
		damaged := bytes.Clone(block.Bytes)
		damaged[i] ^= 0x15
		text := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: damaged[:min(len(damaged), 120+i)]})
		if _, err := ParsePrivateKey("kiln.key", text, []byte("x")); err == nil {
			t.Errorf("a key came from the text with byte %d changed", i)
		}
	}
	// One of a length that cannot be, at which the decoder panics.
	var key struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	if _, err := asn1.Unmarshal(block.Bytes, &key); err != nil {
		t.Fatal(err)
	}
	key.Data = key.Data[1:]
	der, err := asn1.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParsePrivateKey("kiln.key", pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}), []byte("x"))
	wantError(t, err, model.Invalid, "it is damaged", "")
}

// TestOpenSSLKey reads what OpenSSL 3.0 has written:
//
//	openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 |
//	openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -passout pass:secret
func TestOpenSSLKey(t *testing.T) {
	text, err := os.ReadFile("testdata/openssl.key")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePrivateKey("openssl.key", text, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if public, err := ReadPublicKey("testdata/openssl.pub"); err != nil || !public.Equal(key.Public()) {
		t.Errorf("it is another key than OpenSSL's (%v)", err)
	}
}

// TestOpenSSL has OpenSSL read what is written here, and reads what it writes.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), openssl, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	key := generate(t)
	if err := key.WriteFile(filepath.Join(dir, "ours"), []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if got := run("pkey", "-in", "ours", "-passin", "pass:secret", "-pubout"); got != string(key.Public().PEM()) {
		t.Errorf("openssl reads another key: %s", got)
	}
	for kind, args := range map[string][]string{
		"ECDSA P-256": {"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"ECDSA P-384": {"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"Ed25519":     {"genpkey", "-algorithm", "ed25519"},
		"RSA 2048":    {"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
	} {
		run(append(args, "-out", "clear")...)
		run("pkcs8", "-topk8", "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-in", "clear", "-passout", "pass:secret", "-out", "encrypted")
		run("pkey", "-in", "clear", "-pubout", "-out", "public")
		for _, file := range []string{"clear", "encrypted"} {
			if err := os.Chmod(filepath.Join(dir, file), 0o600); err != nil {
				t.Fatal(err)
			}
			read, err := ReadPrivateKey(filepath.Join(dir, file), []byte("secret"))
			if err != nil {
				t.Fatalf("%s, %s: %v", kind, file, err)
			}
			public, err := ReadPublicKey(filepath.Join(dir, "public"))
			if err != nil {
				t.Fatal(err)
			}
			if !read.Public().Equal(public) || public.Algorithm() != kind {
				t.Errorf("%s, %s: it is read as %s %s", kind, file, public.Algorithm(), read)
			}
			text, err := read.SignImage(image)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(text, []PublicKey{public}, image, Signature); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
	// openssl itself checks a signature.
	signature, err := key.sign([]byte("a message"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"message": []byte("a message"), "signature": signature, "pub": key.Public().PEM()} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("dgst", "-sha256", "-verify", "pub", "-signature", "signature", "message")
}

// TestOtherForms reads what cosign and older tools write.
func TestOtherForms(t *testing.T) {
	key := generate(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key.signer)
	if err != nil {
		t.Fatal(err)
	}
	cosign, err := encrypted.EncryptWithCustomKDFParameters(pkcs8, []byte("secret"), encrypted.Standard)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key.signer.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	for kind, der := range map[string][]byte{"ENCRYPTED SIGSTORE PRIVATE KEY": cosign, "EC PRIVATE KEY": sec1} {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		text = append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), text...)
		got, err := ParsePrivateKey("it", text, []byte("secret"))
		if err != nil || !got.Public().Equal(key.Public()) {
			t.Errorf("%s: %v (%v)", kind, got, err)
		}
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: cosign})
	_, err = ParsePrivateKey("cosign.key", text, []byte("wrong"))
	wantError(t, err, model.Denied, "the passphrase is wrong", "")
}

func TestWhatIsNoKey(t *testing.T) {
	key := generate(t)
	clear, err := key.PEM(nil)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521DER, err := x509.MarshalPKCS8PrivateKey(p521)
	if err != nil {
		t.Fatal(err)
	}
	old := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "DES-CBC,00"}, Bytes: []byte("x")})
	for _, c := range []struct {
		what        string
		text        []byte
		words, hint string
	}{
		{"a public key", key.Public().PEM(), "it is a public key", "name the private key"},
		{"garbage", []byte("garbage"), "there is no PEM in it", "-----BEGIN"},
		{"nothing", nil, "there is no PEM in it", "-----BEGIN"},
		{"garbage in PEM", block("PRIVATE KEY", []byte("garbage")), "asn1", ""},
		{"a certificate", block("CERTIFICATE", []byte("x")), `its PEM is of the kind "CERTIFICATE"`, "openssl pkcs8"},
		{"a key of SSH", block("OPENSSH PRIVATE KEY", []byte("x")), "it is a private key of SSH", "ssh-keygen -p -m PKCS8"},
		{"a short RSA key", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(small)), "an RSA key of 1024 bits", "RSA of 2048"},
		{"another curve", block("PRIVATE KEY", p521DER), "on the curve P-521", "P-256 or P-384"},
		{"an old way to encrypt", old, "in a way that is broken", "openssl pkcs8 -topk8"},
	} {
		_, err := ParsePrivateKey("FILE", c.text, nil)
		wantError(t, err, model.Invalid, "cannot use FILE as a private key: ", "")
		wantError(t, err, model.Invalid, c.words, c.hint)
	}
	for _, c := range []struct {
		what        string
		text        []byte
		words, hint string
	}{
		{"a private key", clear, "it is a private key", "openssl pkey -in FILE -pubout"},
		{"garbage", []byte("garbage"), "there is no PEM in it", "-----BEGIN"},
		{"a certificate", block("CERTIFICATE", []byte("x")), "it is a certificate", "openssl x509 -in FILE -noout -pubkey"},
		{"an empty one", block("PUBLIC KEY", nil), "asn1", ""},
		{"something else", block("RSA PUBLIC KEY", []byte("x")), `its PEM is of the kind "RSA PUBLIC KEY"`, "openssl pkey"},
	} {
		_, err := ParsePublicKey("FILE", c.text)
		wantError(t, err, model.Invalid, "cannot use FILE as a public key: ", "")
		wantError(t, err, model.Invalid, c.words, c.hint)
	}
}

func TestWhatIsNoKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := generate(t).WriteFile(path, nil); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o640: true, 0o644: false, 0o660: false, 0o604: false, 0o602: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadPrivateKey(path, nil)
		if ok && err != nil {
			t.Errorf("mode %#o: %v", mode, err)
		}
		if !ok {
			wantError(t, err, model.Denied, fmt.Sprintf("others may read or change it (its mode is %#o)", mode), "chmod 600 "+path)
		}
	}
	_, err := ReadPrivateKey(filepath.Join(dir, "none"), nil)
	wantError(t, err, model.NotFound, "there is no key", "")
	_, err = ReadPublicKey(dir)
	wantError(t, err, model.Invalid, "it is no file", "")
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxKeyFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = ReadPrivateKey(large, nil)
	wantError(t, err, model.Invalid, "more than 65536 bytes", "")
}

func TestKeysAreNotGivenAway(t *testing.T) {
	key := generate(t)
	raw, err := key.signer.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	secret := new(big.Int).SetBytes(raw).String()
	text, err := json.Marshal(map[string]any{"key": key})
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(key), fmt.Sprintf("%+v", key), fmt.Sprintf("%#v", key), string(text)} {
		if strings.Contains(shown, secret) || strings.Contains(shown, "signer") {
			t.Errorf("it is shown as %s", shown)
		}
	}
	public := key.Public()
	text, err = json.Marshal(public)
	if err != nil {
		t.Fatal(err)
	}
	var again PublicKey
	if err := json.Unmarshal(text, &again); err != nil || !again.Equal(public) {
		t.Errorf("%s is read as %v (%v)", text, again, err)
	}
}

func TestSignaturesOfEachKind(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []any{p384, edwards, long} {
		key, err := newPrivateKey(raw)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := key.sign([]byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		if !key.Public().verify([]byte("message"), signature) {
			t.Errorf("%s: its signature does not hold", key.Public().Algorithm())
		}
		if key.Public().verify([]byte("massage"), signature) || key.Public().verify([]byte("message"), nil) {
			t.Errorf("%s: another message's signature holds", key.Public().Algorithm())
		}
	}
	// On P-384 cosign hashes with SHA-256 unless told otherwise.
	sum := sha256.Sum256([]byte("message"))
	signature, err := ecdsa.SignASN1(rand.Reader, p384, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if key, err := newPublicKey(p384.Public()); err != nil || !key.verify([]byte("message"), signature) {
		t.Errorf("P-384 with SHA-256 does not hold (%v)", err)
	}
	if _, err := newPrivateKey("text"); err == nil {
		t.Error("a text is a key")
	}
	if (PublicKey{}).verify(nil, nil) {
		t.Error("no key verifies")
	}
}
