package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	acts["net"] = network
}

// network runs commands, each one argument: a word and its own arguments. It prints "COMMAND: RESULT", and
// for an error its kind.
func network(args []string) error {
	for _, line := range args {
		word, rest, _ := strings.Cut(line, " ")
		do := netActs[word]
		if do == nil {
			return fmt.Errorf("unknown act %q", word)
		}
		result, err := do(rest)
		if err != nil {
			result = kindOf(err)
		}
		fmt.Printf("%s: %s\n", line, result)
	}
	return nil
}

// kindOf names the errors that tests look for.
func kindOf(err error) string {
	var dns *net.DNSError
	var errno syscall.Errno
	switch {
	case errors.As(err, &dns):
		return "no name: " + dns.Err
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

var netActs = map[string]func(string) (string, error){
	"get":   get,
	"echo":  echoTCP,
	"udp":   echoUDP,
	"ping":  func(to string) (string, error) { return exchange("udp", to) },
	"serve": answer,
	"vsock": vsockSocket,
	"read": func(name string) (string, error) {
		b, err := os.ReadFile(name)
		return strings.Join(strings.Fields(string(b)), " "), err
	},
	"carrier": carrier,
	"sleep": func(text string) (string, error) {
		d, err := time.ParseDuration(text)
		time.Sleep(d)
		return "done", err
	},
}

// get fetches a URL, trusting the certificates in /ca.pem.
func get(url string) (string, error) {
	pem, err := os.ReadFile("/ca.pem")
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := http.Client{Timeout: 30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.Status + " " + string(b), err
}

// echoTCP sends N MiB to a server that sends them back, and compares.
func echoTCP(text string) (string, error) {
	var to string
	var size int
	if _, err := fmt.Sscan(text, &to, &size); err != nil {
		return "", err
	}
	c, err := net.DialTimeout("tcp", to, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	sent, got := sha256.New(), sha256.New()
	go func() {
		block := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		for range size {
			c.Write(block)
			sent.Write(block)
			block = append(block[1:], block[0])
		}
		c.(*net.TCPConn).CloseWrite()
	}()
	n, err := io.Copy(got, c)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return "", fmt.Errorf("%d bytes came back, and are others", n)
	}
	return fmt.Sprintf("%d bytes", n), nil
}

func echoUDP(to string) (string, error) { return exchange("udp", to) }

// exchange sends a datagram and returns the answer.
func exchange(network, to string) (string, error) {
	c, err := net.DialTimeout(network, to, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("ping")); err != nil {
		return "", err
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// answer answers N connections at a port, and then ends.
func answer(text string) (string, error) {
	var address string
	var count int
	if _, err := fmt.Sscan(text, &address, &count); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	defer l.Close()
	fmt.Println("listening")
	var all sync.WaitGroup
	for range count {
		c, err := l.Accept()
		if err != nil {
			return "", err
		}
		all.Go(func() {
			io.Copy(c, c)
			c.Close()
		})
	}
	all.Wait()
	return "done", nil
}

func vsockSocket(string) (string, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	unix.Close(fd)
	return "open", nil
}

// carrier returns what restricts the process that carries the network.
func carrier(string) (string, error) {
	for pid := 2; pid < 200; pid++ {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !strings.HasPrefix(string(b), "neb-net\x00") {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return "", err
		}
		var found []string
		memory := ""
		for line := range strings.Lines(string(status)) {
			f := strings.Fields(line)
			switch f[0] {
			case "Uid:", "Gid:", "CapPrm:", "CapEff:", "CapAmb:", "NoNewPrivs:", "Seccomp:":
				found = append(found, f[0]+f[1])
			case "VmHWM:":
				memory = f[1]
			}
		}
		return strings.Join(append(found, "memory:"+memory), " "), nil
	}
	return "", errors.New("no such process")
}
