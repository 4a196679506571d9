package copies

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"gopkg.in/ini.v1"

	"github.com/slipway-os/slipway/images/bootspec"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// bucket is one of an object store that speaks S3.
type bucket struct {
	cluster.BucketAccess
	name string
}

func (b bucket) String() string { return b.name }

// client reads the keys and the authority. It asks nobody.
func (b bucket) client() (*minio.Client, error) {
	endpoint, err := url.Parse(b.Endpoint)
	if err != nil {
		return nil, err
	}
	keys, err := ini.Load(b.Keys)
	if err != nil {
		return nil, fmt.Errorf("cannot read the bucket's keys (%s): %w", b.Credentials, err)
	}
	section := keys.Section("default")
	id, secret := section.Key("aws_access_key_id").String(), section.Key("aws_secret_access_key").String()
	if id == "" || secret == "" {
		return nil, fmt.Errorf("there are no keys in %s: write aws_access_key_id and aws_secret_access_key below [default]", b.Credentials)
	}
	transport, err := minio.DefaultTransport(true)
	if err != nil {
		return nil, err
	}
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	transport.ResponseHeaderTimeout = 30 * time.Second
	if len(b.Authority) > 0 {
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(b.Authority) {
			return nil, fmt.Errorf("there is no certificate in %s", b.CA)
		}
	}
	return minio.New(endpoint.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(id, secret, section.Key("aws_session_token").String()),
		Secure: endpoint.Scheme == "https", Region: b.Region, Transport: http.RoundTripper(transport),
	})
}

func (b bucket) List(ctx context.Context) ([]bootspec.KeptSnapshot, error) {
	client, err := b.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing, whatever is left of it
	var list []bootspec.KeptSnapshot
	for object := range client.ListObjects(ctx, b.Bucket.Bucket, minio.ListObjectsOptions{Prefix: b.Prefix}) {
		if object.Err != nil {
			return nil, b.explain(object.Err)
		}
		name := strings.TrimPrefix(object.Key, b.Prefix)
		if _, _, ok := bootspec.ParseSnapshotName(name); ok {
			list = append(list, bootspec.KeptSnapshot{Name: name, Size: object.Size})
		}
	}
	return list, nil
}

func (b bucket) Open(ctx context.Context, s bootspec.KeptSnapshot) (io.ReadCloser, error) {
	client, err := b.client()
	if err != nil {
		return nil, err
	}
	object, err := client.GetObject(ctx, b.Bucket.Bucket, b.Prefix+s.Name, minio.GetObjectOptions{})
	if err != nil {
		return nil, b.explain(err)
	}
	if _, err := object.Stat(); err != nil {
		return nil, errors.Join(b.explain(err), object.Close())
	}
	return object, nil
}

// explain says what the store said, without the request's URL.
func (b bucket) explain(err error) error {
	if wrong := (*url.Error)(nil); errors.As(err, &wrong) {
		err = wrong.Err
	}
	if answer := minio.ToErrorResponse(err); answer.Code != "" && answer.Code != "InternalError" {
		return fmt.Errorf("the store says %s: %w", answer.Code, err)
	}
	return err
}
