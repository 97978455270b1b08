package kms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/nitro-enclaves-bootstrap/neb/internal/atomicfile"
)

// A key is a symmetric key of the stand-in. Its ID is a UUID, the last part of its ARN.
type key struct {
	ARN         string
	Material    []byte // of AES-256
	Created     time.Time
	Description string `json:",omitempty"`
	Policy      string
}

func (k *key) id() string { return k.ARN[strings.LastIndexByte(k.ARN, '/')+1:] }

func (k *key) account() string { return strings.Split(k.ARN, ":")[4] }

// newID returns a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// note is the first line of the file of keys.
const note = "Keys of neb kms serve, for development. They protect nothing."

const maxFile = 4 << 20 // bytes of the file of keys, which each request reads

// keys are those in a file, in the order in which they were made. A file that does not exist has none.
type keys []*key

// readKeys reads a file of keys. It rejects a file that others can read.
func readKeys(path string) (keys, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && os.PathSeparator == '/' {
		return nil, fmt.Errorf("%s: mode %04o, expected 0600: others can read the keys; run chmod 600 %[1]s",
			path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	var file struct{ Keys keys }
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	for i, k := range file.Keys {
		if err == nil && (k == nil || len(k.Material) != 32 || !keyARN.MatchString(k.ARN)) {
			err = fmt.Errorf("key %d was not created by neb kms", i+1)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: invalid key file: %w", path, err)
	}
	return file.Keys, nil
}

// write replaces the file of keys atomically. It rejects more than readKeys reads.
func (all keys) write(path string) error {
	text, err := json.MarshalIndent(struct {
		Note string
		Keys keys
	}{note, all}, "", "  ")
	if err != nil {
		return err
	}
	if len(text) > maxFile {
		return failf(limitExceeded, "%s would have more than %d bytes", path, maxFile)
	}
	return atomicfile.Write(path, func(f *os.File) error {
		if err := f.Chmod(0o600); err != nil {
			return err
		}
		_, err := f.Write(append(text, '\n'))
		return err
	})
}

// find returns the key with an ID or ARN.
func (all keys) find(id string) (*key, error) {
	for _, k := range all {
		if id == k.ARN || id == k.id() {
			return k, nil
		}
	}
	if strings.Contains(id, "alias/") {
		return nil, failf(notFound, "Alias %.256q is not found: neb kms has no aliases", id)
	}
	return nil, failf(notFound, "Key %.256q does not exist", id)
}

// A ciphertext is version, the UUID of the key, a nonce, and the text sealed with AES-GCM; the encryption
// context is authenticated. KMS does not document its own.
const (
	version   = "neb1"
	nonceSize = 12
	blobHead  = len(version) + 16 + nonceSize
)

// seal encrypts a text of at most 4,096 bytes.
func (k *key) seal(plaintext []byte, context map[string]string) []byte {
	id, _ := hex.DecodeString(strings.ReplaceAll(k.id(), "-", "")) // see keyARN
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	head := append(append([]byte(version), id...), nonce...)
	return k.aead().Seal(head, nonce, plaintext, additional(context))
}

var errCiphertext = failf("InvalidCiphertextException",
	"the ciphertext is not one of neb kms, was changed, or has another encryption context")

// keyOf finds the key of a ciphertext.
func (all keys) keyOf(blob []byte) (*key, error) {
	if len(blob) < blobHead || !bytes.HasPrefix(blob, []byte(version)) {
		return nil, errCiphertext
	}
	id := hex.EncodeToString(blob[len(version):][:16])
	for _, k := range all {
		if strings.ReplaceAll(k.id(), "-", "") == id {
			return k, nil
		}
	}
	return nil, errCiphertext
}

// open decrypts a ciphertext of this key.
func (k *key) open(blob []byte, context map[string]string) ([]byte, error) {
	nonce := blob[blobHead-nonceSize : blobHead]
	plaintext, err := k.aead().Open(nil, nonce, blob[blobHead:], additional(context))
	if err != nil {
		return nil, errCiphertext
	}
	return plaintext, nil
}

func (k *key) aead() cipher.AEAD {
	block, err := aes.NewCipher(k.Material)
	if err != nil {
		panic(err) // 32 bytes
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// additional encodes an encryption context, its names in order.
func additional(context map[string]string) []byte {
	if len(context) == 0 {
		return nil
	}
	text, err := json.Marshal(context)
	if err != nil {
		panic(err) // texts
	}
	return text
}
