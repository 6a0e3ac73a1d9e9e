const underpassAddress=import.meta.url;
