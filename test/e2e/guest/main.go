// Command guest is the application inside the enclaves that the end-to-end tests boot. Its first argument
// says what it does; what it finds it prints, one "key: value" a line, for the test to read on the console.
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/nitro-enclaves-bootstrap/neb/internal/testing/vm/peer"
	"github.com/nitro-enclaves-bootstrap/neb/nsm"
)

// acts is what the guest can do, by the name that the test gives as its first argument.
var acts = map[string]func(args []string) error{
	"attest":  attest,
	"datakey": dataKey,
	"exit":    exit,
	"hello":   hello,
	"kill":    kill,
	"pcrs":    pcrs,
	"sum":     sum,
	"write":   write,
}

func main() {
	if len(os.Args) < 2 || acts[os.Args[1]] == nil {
		fmt.Printf("guest: unknown act %q\n", os.Args[1:])
		os.Exit(99)
	}
	if err := acts[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Printf("guest: %s: %v\n", os.Args[1], err)
		os.Exit(98)
	}
}

// hello says who the program runs as and where.
func hello([]string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	fmt.Printf("hello: uid %d in %s\n", os.Getuid(), dir)
	return nil
}

// exit ends with the status that it is given.
func exit(args []string) error {
	status, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	os.Exit(status)
	return nil
}

// kill ends by the signal number that it is given.
func kill(args []string) error {
	number, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := syscall.Kill(os.Getpid(), syscall.Signal(number)); err != nil {
		return err
	}
	select {}
}

// pcrs prints the registers that the secure module reports, by the index.
func pcrs(args []string) error {
	module, done, err := nsm.Open()
	if err != nil {
		return err
	}
	defer done()
	for _, arg := range args {
		index, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		register, err := module.DescribePCR(index)
		if err != nil {
			return err
		}
		fmt.Printf("PCR%d: %x\n", index, register.Value)
	}
	return nil
}

// attest prints an attestation document in base64, with the nonce it is given.
func attest(args []string) error {
	module, done, err := nsm.Open()
	if err != nil {
		return fmt.Errorf("as uid %d: %w", os.Getuid(), err)
	}
	defer done()
	document, err := module.Attest(nil, []byte(args[0]), nil)
	if err != nil {
		return err
	}
	fmt.Printf("document: %s\n", base64.StdEncoding.EncodeToString(document))
	return nil
}

// dataKey extends PCR16, asks for a document with all three fields, and asks KMS on the parent's port 8000
// for a data key that only the owner of /key.der can read. It prints the answer.
func dataKey(args []string) error {
	module, done, err := nsm.Open()
	if err != nil {
		return err
	}
	defer done()
	if _, err := module.ExtendPCR(16, []byte("started")); err != nil {
		return err
	}
	if err := module.LockPCR(16); err != nil {
		return err
	}
	publicKey, err := os.ReadFile("/key.der")
	if err != nil {
		return err
	}
	document, err := module.Attest([]byte("user data"), []byte("nonce"), publicKey)
	if err != nil {
		return err
	}
	c, err := peer.Dial(peer.ParentCID, 8000)
	if err != nil {
		return err
	}
	defer c.Close()
	encoded := base64.StdEncoding.EncodeToString(document)
	fmt.Printf("document: %s\n", encoded)
	body := fmt.Sprintf(`{"KeyId": %q, "KeySpec": "AES_256", "Recipient": {"KeyEncryptionAlgorithm": `+
		`"RSAES_OAEP_SHA_256", "AttestationDocument": %q}}`, args[0], encoded)
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: kms\r\nConnection: close\r\nContent-Length: %d\r\n"+
		"X-Amz-Target: TrentService.GenerateDataKey\r\nAuthorization: AWS4-HMAC-SHA256 "+
		"Credential=key/20261129/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=%064d\r\n\r\n%s",
		len(body), 0, body)
	answer, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	_, content, _ := strings.Cut(string(answer), "\r\n\r\n")
	fmt.Printf("answer: %s\n", strings.TrimSpace(content))
	return nil
}

// sum prints the SHA-256 and size of the files that it is given.
func sum(args []string) error {
	for _, name := range args {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		hash := sha256.New()
		n, err := io.Copy(hash, f)
		f.Close()
		if err != nil {
			return err
		}
		fmt.Printf("%s: %x %d\n", name, hash.Sum(nil), n)
	}
	return nil
}

// write tries to change a file of the image and to add one beside it.
func write(args []string) error {
	for _, name := range args {
		if err := os.WriteFile(name, []byte("changed"), 0o644); err != nil {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s\n", name, content)
	}
	return nil
}
