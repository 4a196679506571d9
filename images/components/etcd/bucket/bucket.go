// Package bucket keeps files in a bucket of an object store that speaks S3 (https://docs.aws.amazon.com/AmazonS3/latest/API/): it lists
// them, puts one there whole or not at all, and removes one.
package bucket

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// partSize is how large the parts of a large file are, in bytes; one at a time is in memory.
const partSize = 16 << 20

// Config says which bucket.
type Config struct {
	Endpoint    string // https://s3.example.com[:PORT]
	Region      string // empty: the endpoint says it
	Bucket      string
	Prefix      string // of all names
	Credentials string // file as the AWS tools read it, its profile default
	CA          string // file with the authority of the endpoint, PEM; empty: those of the system
}

// Bucket is a place for files.
type Bucket struct {
	config Config
	client *minio.Client
}

// Open reads the files of the configuration. It asks nobody yet.
func Open(c Config) (*Bucket, error) {
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "https" && endpoint.Scheme != "http" {
		return nil, fmt.Errorf("%q is no endpoint: write it like https://s3.example.com", c.Endpoint)
	}
	keys := credentials.NewFileAWSCredentials(c.Credentials, "default")
	v, err := keys.GetWithContext(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read the bucket's keys: %w", err)
	}
	if v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return nil, fmt.Errorf("there are no keys in %s: write aws_access_key_id and aws_secret_access_key below [default]", c.Credentials)
	}
	transport, err := transport(c.CA)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(endpoint.Host, &minio.Options{Creds: keys, Secure: endpoint.Scheme == "https", Region: c.Region, Transport: transport})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Endpoint, err)
	}
	return &Bucket{c, client}, nil
}

func transport(authority string) (*http.Transport, error) {
	t, err := minio.DefaultTransport(true)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t.ResponseHeaderTimeout = time.Minute
	if authority == "" {
		return t, nil
	}
	text, err := os.ReadFile(authority)
	if err != nil {
		return nil, fmt.Errorf("cannot read the endpoint's authority: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("cannot read the endpoint's authority: there is no certificate in %s", authority)
	}
	return t, nil
}

// List are the names of the files below the prefix, without it. What lies deeper is left out.
func (b *Bucket) List(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing, whatever is left of it
	var names []string
	for object := range b.client.ListObjects(ctx, b.config.Bucket, minio.ListObjectsOptions{Prefix: b.config.Prefix}) {
		if object.Err != nil {
			return nil, b.explain(object.Err)
		}
		name := strings.TrimPrefix(object.Key, b.config.Prefix)
		if name != "" && !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return names, nil
}

// Put puts a file of so many bytes there; one that has the name already is replaced. A cut leaves what was there before.
func (b *Bucket) Put(ctx context.Context, name string, from io.Reader, size int64) error {
	_, err := b.client.PutObject(ctx, b.config.Bucket, b.config.Prefix+name, from, size, minio.PutObjectOptions{
		ContentType: "application/octet-stream", SendContentMd5: true, PartSize: partSize, NumThreads: 1,
	})
	return b.explain(err)
}

// Remove removes a file. One that isn't there is no error.
func (b *Bucket) Remove(ctx context.Context, name string) error {
	return b.explain(b.client.RemoveObject(ctx, b.config.Bucket, b.config.Prefix+name, minio.RemoveObjectOptions{}))
}

// explain says which bucket, and what its store said.
func (b *Bucket) explain(err error) error {
	if err == nil {
		return nil
	}
	if wrong := (*url.Error)(nil); errors.As(err, &wrong) {
		err = wrong.Err // without the URL
	}
	if answer := minio.ToErrorResponse(err); answer.Code != "" && answer.Code != "InternalError" {
		return fmt.Errorf("the store says %s: %w", answer.Code, err)
	}
	return err
}
