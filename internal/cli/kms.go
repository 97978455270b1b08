package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/cobra"

	"github.com/nitro-enclaves-bootstrap/neb/internal/devca"
	"github.com/nitro-enclaves-bootstrap/neb/internal/kms"
)

func newKMSCommand(s streams) *cobra.Command {
	return newGroup("kms", "Serve a stand-in for AWS KMS, for development", newKMSServeCommand(s),
		newKMSCreateKeyCommand(s), newKMSPutKeyPolicyCommand(s))
}

// kmsFile is the file of keys: the given one, or the user's own.
func kmsFile(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("directory of the keys: %w; name a file", err)
	}
	dir = filepath.Join(dir, "neb")
	return filepath.Join(dir, "kms.json"), os.MkdirAll(dir, 0o700)
}

// kmsFlags are the flags of both commands.
type kmsFlags struct{ principal string }

func (o *kmsFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.principal, "principal", kms.DefaultCaller,
		"`ARN` of the role, user or account that sends the requests, for the Principal of policies")
}

// server is the stand-in for the file of keys in the arguments.
func (o *kmsFlags) server(s streams, args []string) (*kms.Server, error) {
	caller, err := kms.ParseCaller(o.principal)
	if err != nil {
		return nil, usagef("--principal: %v", err)
	}
	file, err := kmsFile(strings.Join(args, "")) // at most one
	if err != nil {
		return nil, err
	}
	return &kms.Server{File: file, Caller: caller, Report: func(line string) { complain(s, "%s", line) }}, nil
}

func newKMSServeCommand(s streams) *cobra.Command {
	var o kmsFlags
	var address, credentials, authority string
	cmd := &cobra.Command{
		Use:   "serve [FILE]",
		Short: "Serve the stand-in on a port of this machine",
		Long: `Serve the part of AWS KMS that enclaves use, over HTTP and TLS on a loopback address, with the
keys in FILE (default: neb/kms.json in the user's configuration directory). neb evaluates key policies against
the attestation documents of requests, which must be signed under the development root ('neb attest ca init').
It explains each denied request on standard error.

It is for development and protects nothing: anyone who can read FILE has the keys.`,
		Example: `  neb kms serve
  neb kms serve keys.json --listen 127.0.0.1:9000 --principal arn:aws:iam::111122223333:role/Web`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := o.server(s, args)
			if err != nil {
				return err
			}
			return serveKMS(cmd.Context(), s, server, address, credentials, authority)
		},
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&address, "listen", fmt.Sprintf("127.0.0.1:%d", kms.Port), "loopback `address` to serve")
	f.StringVar(&credentials, "credentials", "",
		"reject requests that are not signed with the access key in this `file` (profile default)")
	f.StringVar(&authority, "attestation-ca", "",
		"trust the root in this `directory` (default: the root of 'neb attest ca init')")
	return cmd
}

func serveKMS(ctx context.Context, s streams, server *kms.Server, address, credentials,
	authority string) error {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usagef("invalid --listen %q: expected HOST:PORT with a loopback address", address)
	}
	if credentials != "" {
		profile, err := config.LoadSharedConfigProfile(ctx, "default",
			func(o *config.LoadSharedConfigOptions) {
				o.CredentialsFiles, o.ConfigFiles = []string{credentials}, []string{}
			})
		if err == nil && !profile.Credentials.HasKeys() {
			err = errors.New("no access key in the profile default")
		}
		if err != nil {
			return fmt.Errorf("--credentials %s: %w", credentials, err)
		}
		server.Credentials = profile.Credentials
	}
	if authority == "" {
		if authority, err = devca.Dir(); err != nil {
			return err
		}
	}
	if server.Root, err = devca.Load(authority); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; run 'neb attest ca init'", err)
	} else if err != nil {
		return err
	}
	n, err := server.Keys()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	complain(s, "kms: keys in %s: %d; for development only: they protect nothing", server.File, n)
	if err := printLine(s.out, "http://%s", l.Addr()); err != nil {
		return err
	}
	return server.Serve(ctx, l)
}

func newKMSCreateKeyCommand(s streams) *cobra.Command {
	var o kmsFlags
	var region, policy string
	cmd := &cobra.Command{
		Use:   "create-key [FILE]",
		Short: "Create a key for 'neb kms serve' and 'neb run --kms'",
		Long: `Create a symmetric key in FILE (default: neb/kms.json in the user's configuration directory),
as CreateKey of AWS KMS does, and print its ARN. Without --policy, the key has AWS's default policy, which allows
everything to the account.`,
		Example: "  neb kms create-key",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			server, text, err := o.keyAndPolicy(s, args, policy)
			if err != nil {
				return err
			}
			arn, err := server.CreateKey(region, text)
			if err != nil {
				return err
			}
			return printLine(s.out, "%v", arn)
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&region, "region", "us-east-1", "`region` in the ARN of the key")
	cmd.Flags().StringVar(&policy, "policy", "", "`file` with the key policy, in JSON")
	return cmd
}

func newKMSPutKeyPolicyCommand(s streams) *cobra.Command {
	var o kmsFlags
	var key, policy string
	cmd := &cobra.Command{
		Use:     "put-key-policy [FILE] --key ARN --policy FILE",
		Short:   "Replace the policy of a key",
		Long:    "Replace the policy of a key in FILE, the file of 'neb kms create-key'.",
		Example: "  neb kms put-key-policy --key $ARN --policy policy.json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if key == "" || policy == "" {
				return usagef("--key and --policy are required")
			}
			server, text, err := o.keyAndPolicy(s, args, policy)
			if err != nil {
				return err
			}
			return server.PutKeyPolicy(key, text)
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&key, "key", "", "`ARN` or ID of the key")
	cmd.Flags().StringVar(&policy, "policy", "", "`file` with the key policy, in JSON")
	return cmd
}

// keyAndPolicy is the stand-in for the file of keys in the arguments, and the text of a file if one is named.
func (o *kmsFlags) keyAndPolicy(s streams, args []string, policy string) (*kms.Server, string, error) {
	server, err := o.server(s, args)
	if err != nil || policy == "" {
		return server, "", err
	}
	text, err := os.ReadFile(policy)
	if err != nil {
		return nil, "", fmt.Errorf("--policy: %w", err)
	}
	return server, string(text), nil
}
