"""DivBase gateway: plans bcftools queries over VCF files in S3 and runs them as batch jobs."""
